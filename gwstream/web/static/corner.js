// A corner plot: the draws of a posterior against each other, with the regions that hold 50 and 90 % of their weight.

import { css, kept } from "./charts.js";
import { make, minus } from "./dom.js";

const BINS = 36;
const LEFT = 46, BELOW = 34, GAP = 5;
const LEVELS = [0.9, 0.5];
const NARROW = 62; // px of a square, below which names are short
const PAIRS = 8; // sets of draws that are remembered

const AXES = [
  ["Chirp mass", "Mc", 1, ({ mass_1: a, mass_2: b }) => a.map((m, i) => (m * b[i]) ** 0.6 / (m + b[i]) ** 0.2)],
  ["Mass ratio", "q", 2, ({ mass_1: a, mass_2: b }) => a.map((m, i) => b[i] / m)],
  ["Distance", "D", 2, (draws) => draws.effective_distance],
  ["Time, ms", "t, ms", 0, (draws) => draws.coalescence_time.map((t) => 1000 * t)],
  ["Phase", "phase", 1, (draws, body) => unwrapped(draws.phase, body.parameters.phase)],
];

// The phase is cyclic: cut the circle opposite to its mean.
const unwrapped = (phases, { mean, period }) => phases.map((phase) => mean + ((((phase - mean + period / 2) % period) + period) % period) - period / 2);

const known = new Map(); // id -> promise of the answer

async function ask(id) {
  try {
    const answer = await fetch(`/samples/${encodeURIComponent(id)}?quiet`);
    if (answer.status === 200) return await answer.json();
  } catch { /* no answer, or a part of one: the daemon stops */ }
  known.delete(id); // one that is busy, or comes back, may have them later
  return null;
}

export function draws(id) {
  if (!known.has(id)) {
    known.set(id, ask(id));
    if (known.size > PAIRS) known.delete(known.keys().next().value);
  }
  return known.get(id);
}

function limits(values, weights) {
  const order = values.map((_, i) => i).filter((i) => weights[i] > 0).sort((a, b) => values[a] - values[b]);
  const total = order.reduce((sum, i) => sum + weights[i], 0);
  const wanted = [0.001, 0.05, 0.5, 0.95, 0.999].map((part) => part * total);
  const out = [];
  let sum = 0;
  for (const i of order) {
    sum += weights[i];
    while (out.length < wanted.length && sum >= wanted[out.length]) out.push(values[i]);
  }
  while (out.length < wanted.length) out.push(values[order.at(-1)]);
  const [low, p5, median, p95, high] = out;
  const margin = 0.06 * (high - low) || 1e-6;
  return { low: low - margin, high: high + margin, p5, median, p95 };
}

const bin = (value, { low, high }) => Math.floor(((value - low) / (high - low)) * BINS);

function histogram(values, weights, span) {
  const counts = new Float64Array(BINS);
  values.forEach((v, i) => {
    const k = bin(v, span);
    if (k >= 0 && k < BINS) counts[k] += weights[i];
  });
  return smooth(counts, BINS, 1);
}

function density(x, y, weights, spanX, spanY) {
  const counts = new Float64Array(BINS * BINS);
  x.forEach((_, i) => {
    const [a, b] = [bin(x[i], spanX), bin(y[i], spanY)];
    if (a >= 0 && a < BINS && b >= 0 && b < BINS) counts[b * BINS + a] += weights[i];
  });
  return smooth(smooth(counts, BINS, 1), BINS, BINS);
}

// A Gaussian of 1.3 bins along one direction of a grid `wide` bins wide.
function smooth(grid, wide, stride) {
  const kernel = [-4, -3, -2, -1, 0, 1, 2, 3, 4].map((k) => Math.exp(-0.5 * (k / 1.3) ** 2));
  const sum = kernel.reduce((a, b) => a + b);
  return grid.map((_, at) => {
    const place = stride === 1 ? at % wide : Math.floor(at / wide);
    return kernel.reduce((total, w, k) => (place + k - 4 >= 0 && place + k - 4 < wide ? total + (w / sum) * grid[at + (k - 4) * stride] : total), 0);
  });
}

// The densities above which 90 and 50 % of the weight lie.
function levels(grid) {
  const sorted = Array.from(grid).sort((a, b) => b - a);
  const total = sorted.reduce((a, b) => a + b, 0);
  return LEVELS.map((part) => {
    let sum = 0;
    return sorted.find((v) => (sum += v) >= part * total) ?? 0;
  });
}

function between(grid, x, y) {
  const [a, b] = [Math.min(Math.max(x, 0), BINS - 1.001), Math.min(Math.max(y, 0), BINS - 1.001)];
  const [i, j] = [Math.floor(a), Math.floor(b)], [s, t] = [a - i, b - j];
  const at = j * BINS + i;
  return (1 - t) * ((1 - s) * grid[at] + s * grid[at + 1]) + t * ((1 - s) * grid[at + BINS] + s * grid[at + BINS + 1]);
}

function region(context, grid, [x0, y0, side], colour, dense) {
  const size = Math.max(Math.round(side * dense), 1);
  const image = context.createImageData(size, size);
  const [ninety, fifty] = levels(grid);
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  for (let row = 0; row < size; row++) {
    for (let column = 0; column < size; column++) {
      const v = between(grid, ((column + 0.5) / size) * BINS - 0.5, ((size - row - 0.5) / size) * BINS - 0.5);
      const at = 4 * (row * size + column);
      image.data.set([r, g, b, v >= fifty ? 210 : v >= ninety ? 95 : 0], at);
    }
  }
  context.putImageData(image, Math.round(x0 * dense), Math.round(y0 * dense));
}

function curve(context, counts, [x0, y0, side], { low, high, p5, median, p95 }, colour, ink) {
  const top = Math.max(...counts) * 1.15;
  const at = (v) => x0 + ((v - low) / (high - low)) * side;
  context.beginPath();
  counts.forEach((count, k) => context.lineTo(x0 + ((k + 0.5) / BINS) * side, y0 + side * (1 - count / top)));
  context.strokeStyle = colour;
  context.lineWidth = 1.5;
  context.stroke();
  context.strokeStyle = ink;
  context.lineWidth = 1;
  for (const [v, dash] of [[p5, [2, 3]], [median, []], [p95, [2, 3]]]) {
    context.setLineDash(dash);
    context.beginPath();
    context.moveTo(at(v), y0 + (dash.length ? 0.35 : 0.1) * side);
    context.lineTo(at(v), y0 + side);
    context.stroke();
  }
  context.setLineDash([]);
}

function labels(context, element, spans, side) {
  context.fillStyle = css(element, "--muted");
  context.font = `11px ${css(element, "--sans")}`;
  spans.forEach(({ low, high, name, short, digits }, k) => {
    const x = LEFT + k * (side + GAP), bottom = spans.length * (side + GAP);
    const more = Math.max(digits, Math.ceil(-Math.log10((high - low) / 4)));
    const [first, second] = [0.22, 0.78].map((part) => minus((low + part * (high - low)).toFixed(more)));
    context.textAlign = "center";
    context.fillText(first, x + 0.22 * side, bottom + 10);
    context.fillText(second, x + 0.78 * side, bottom + 10);
    context.fillText(side < NARROW ? short : name, x + 0.5 * side, bottom + 25);
    if (!k) return;
    const y = k * (side + GAP);
    context.textAlign = "right";
    context.fillText(second, LEFT - 6, y + 0.22 * side + 4);
    context.fillText(first, LEFT - 6, y + 0.78 * side + 4);
  });
}

// Draws the answer of `draws` into `element`; returns how to end it.
export function corner(element, { draws: columns, posterior }) {
  const { weight } = columns;
  const canvas = element.appendChild(make("canvas"));
  const spans = AXES.map(([name, short, digits, of]) => {
    const values = of(columns, posterior);
    return { name, short, digits, values, ...limits(values, weight) };
  });
  const ones = spans.map((span) => histogram(span.values, weight, span));
  const grids = spans.map((y, row) => spans.slice(0, row).map((x) => density(x.values, y.values, weight, x, y)));
  const draw = () => {
    const width = element.clientWidth, dense = Math.min(devicePixelRatio, 2);
    const side = (width - LEFT - 2) / spans.length - GAP;
    if (side < 8) return;
    const height = spans.length * (side + GAP) + BELOW;
    [canvas.width, canvas.height] = [Math.round(width * dense), Math.round(height * dense)];
    const context = canvas.getContext("2d");
    const [colour, ink, rule] = ["--colour", "--ink", "--rule"].map((name) => css(element, name));
    grids.forEach((row, j) => row.forEach((grid, i) => region(context, grid, [LEFT + i * (side + GAP), j * (side + GAP), side], colour, dense)));
    context.setTransform(dense, 0, 0, dense, 0, 0);
    spans.forEach((span, j) => {
      for (let i = 0; i <= j; i++) {
        context.strokeStyle = rule;
        context.lineWidth = 1;
        context.strokeRect(LEFT + i * (side + GAP) + 0.5, j * (side + GAP) + 0.5, side - 1, side - 1);
      }
      curve(context, ones[j], [LEFT + j * (side + GAP), j * (side + GAP), side], span, colour, ink);
    });
    labels(context, element, spans, side);
  };
  return kept(element, draw);
}
