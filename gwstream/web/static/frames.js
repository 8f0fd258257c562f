// One clock for all that moves: 20 pictures a second, 10 where drawing one is dear. What it costs is kept, for the tests.

const QUICK = 50; // ms between two pictures
const SLOW = 100;
const DEAR = 20; // ms of drawing, on average, above which there are fewer pictures
const KEPT = 600;

const parts = new Set();
export const measured = { intervals: [], costs: [] }; // ms, of the last pictures

let interval = QUICK, last = 0, mean = 0;

function keep(list, value) {
  list.push(value);
  if (list.length > KEPT) list.shift();
}

function turn(now) {
  requestAnimationFrame(turn);
  const elapsed = now - last;
  if (elapsed < interval - 6) return; // 6: a screen's pictures do not come on the dot
  last = now;
  const begin = performance.now();
  for (const part of parts) part(Math.min(elapsed / 1000, 0.25));
  const cost = performance.now() - begin;
  mean += 0.1 * (cost - mean);
  interval = mean > DEAR ? SLOW : QUICK;
  keep(measured.intervals, elapsed);
  keep(measured.costs, cost);
}
requestAnimationFrame(turn);

// `part` is called for each picture with the seconds since the last one.
export function each(part) {
  parts.add(part);
}
