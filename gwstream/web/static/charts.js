// The two drawings: a strip of strain that scrolls, and one window at rest. Both put the reconstructed waveform, median
// and 90 % band, over the whitened strain.

const SPAN = 12; // s a strip shows
const KEEP = 15; // s it holds
const FRAME = 30; // ms between two pictures
const LOUDEST = 30; // noise sd: a glitch louder than this runs out of the picture

const css = (element, name) => getComputedStyle(element).getPropertyValue(name).trim();
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const dark = matchMedia("(prefers-color-scheme: dark)");

const LEAPS = [[1167264018, 18], [1119744017, 17], [1025136016, 16], [914803215, 15]]; // GPS s, GPS - UTC from then on
export function utc(gps) {
  const leap = (LEAPS.find(([from]) => gps >= from) ?? [0, 14])[1];
  return new Date((gps + 315964800 - leap) * 1000);
}
const pad = (n, digits = 2) => String(n).padStart(digits, "0");
export function clock(gps, decimals = 0) {
  const date = utc(gps);
  const time = `${pad(date.getUTCHours())}:${pad(date.getUTCMinutes())}:${pad(date.getUTCSeconds())}`;
  return decimals ? `${time}.${pad(date.getUTCMilliseconds(), 3).slice(0, decimals)}` : time;
}

function options(element, xLabels, range) {
  const axis = { stroke: () => css(element, "--faint"), font: "12px " + css(element, "--sans"), ticks: { show: false } };
  const grid = { stroke: () => css(element, "--grid"), width: 1 };
  const colour = () => css(element, "--colour");
  return {
    width: Math.max(element.clientWidth, 50),
    height: Math.max(element.clientHeight, 50),
    pxAlign: false,
    legend: { show: false },
    cursor: { show: false },
    padding: [6, 2, 0, 0],
    scales: { x: { time: false }, y: { range } },
    axes: [
      { ...axis, grid, size: 24, gap: 6, space: 80, ...xLabels },
      { ...axis, grid, size: 42, gap: 8, space: 24, incrs: [1, 2, 4, 5, 10, 20, 50],
        values: (_, splits) => splits.map((v) => (v < 0 ? "\u2212" + -v : String(v))) },
    ],
    series: [
      {},
      { stroke: () => css(element, "--strain"), width: 1, points: { show: false } },
      { stroke: "transparent", width: 0, points: { show: false } },
      { stroke: "transparent", width: 0, points: { show: false } },
      { stroke: colour, width: 1.75, points: { show: false } },
    ],
    bands: [{ series: [3, 2], fill: () => css(element, "--colour") + "40" }],
  };
}

const reach = (values, least) => values.reduce((most, v) => (Math.abs(v) > most ? Math.abs(v) : most), least);

// Where the wave is large enough to be seen: the rest of the window would only be a line on zero.
function seen(wave) {
  const loud = (i) => Math.max(Math.abs(wave.lower[i]), Math.abs(wave.upper[i])) > 0.25;
  let first = 0, last = wave.median.length - 1;
  while (first < last && !loud(first)) first++;
  while (last > first && !loud(last)) last--;
  return [Math.max(first - 2, 0), Math.min(last + 2, wave.median.length - 1)];
}

// Redraws when the colours change; returns how to end that.
function restyle(chart) {
  const again = () => requestAnimationFrame(() => chart.redraw(false, true));
  dark.addEventListener("change", again);
  return () => dark.removeEventListener("change", again);
}

export class Strip {
  constructor(element) {
    this.element = element;
    this.clear();
    const whole = (chart, t) => chart.valToPos(t, "x") < chart.width - 42 - 30; // a label at the edge would be cut
    const labels = { values: (chart, splits) => splits.map((t) => (whole(chart, t) ? clock(this.epoch + t) : "")), incrs: [1, 2, 5, 10] };
    const size = () => [-this.limit, this.limit];
    this.chart = new uPlot(options(element, labels, size), this.data, element);
    restyle(this.chart);
    new ResizeObserver(() => this.chart.setSize({ width: element.clientWidth, height: element.clientHeight })).observe(element);
    new IntersectionObserver(([entry]) => (this.visible = entry.isIntersecting)).observe(element);
    this.visible = true;
    requestAnimationFrame((now) => this.tick(now));
  }

  clear() {
    this.epoch = 0; // GPS s of x = 0
    this.data = [[], [], [], [], []];
    this.waves = [];
    this.end = 0; // of the data
    this.head = 0; // right edge of the picture
    this.piece = 1;
    this.limit = 5;
    this.drawn = 0;
    this.dirty = true;
  }

  add({ gps_ns, rate, samples }) {
    const ns = BigInt(gps_ns);
    if (!this.epoch) {
      this.epoch = Number(ns / 1000000000n);
      this.head = this.at(ns);
    }
    const [x, y, ...wave] = this.data;
    let start = this.at(ns);
    if (x.length && start < this.end - 1) return this.restart({ gps_ns, rate, samples }); // time went back: another run
    if (x.length && start > this.end + 1.5 / rate) { // a gap breaks the line
      x.push(this.end + 0.5 / rate);
      y.push(null);
      wave.forEach((w) => w.push(null));
    }
    samples.forEach((value, i) => {
      x.push(start + i / rate);
      y.push(value);
      wave.forEach((w) => w.push(null));
    });
    this.end = start + samples.length / rate;
    this.piece += 0.3 * (samples.length / rate - this.piece);
    this.rate = rate;
    const old = x.findIndex((t) => t > this.end - KEEP);
    if (old > rate) this.data.forEach((column) => column.splice(0, old));
    this.paint();
  }

  restart(message) {
    const waves = this.waves;
    this.clear();
    this.waves = waves;
    this.add(message);
  }

  at(ns) {
    return Number(ns - BigInt(this.epoch) * 1000000000n) / 1e9;
  }

  // The waveforms to draw: {ns, rate, wave} each.
  show(waves) {
    this.waves = waves;
    this.paint();
  }

  paint() {
    const [x, , lower, upper, median] = this.data;
    [lower, upper, median].forEach((column) => column.fill(null));
    for (const { ns, rate, wave } of this.waves) {
      const start = this.at(ns);
      if (!x.length || start + wave.median.length / rate < x[0] || start > this.end) continue;
      const [first, last] = seen(wave);
      let k = x.findIndex((t) => t > start + (first - 0.5) / rate);
      for (let i = first; i <= last && k >= 0 && k < x.length; k++) {
        i = Math.round((x[k] - start) * rate);
        if (i < first || i > last) continue;
        lower[k] = wave.lower[i];
        upper[k] = wave.upper[i];
        median[k] = wave.median[i];
      }
    }
    this.dirty = true;
  }

  // The picture runs behind the data by about one piece, so that it moves evenly though data come in jumps.
  tick(now) {
    requestAnimationFrame((next) => this.tick(next));
    const elapsed = Math.min((now - this.drawn) / 1000, 0.2);
    if (document.hidden || !this.visible || elapsed * 1000 < FRAME) return;
    this.drawn = now;
    const before = this.head;
    if (calm.matches) {
      this.head = this.end;
    } else {
      const behind = this.end - this.head - (0.5 * this.piece + 0.2);
      if (behind > 4) this.head = this.end - this.piece;
      else this.head = Math.min(this.head + elapsed * Math.max(0, 1 + 0.6 * behind), this.end);
    }
    if (!this.dirty && this.head === before) return;
    const loudest = Math.min(reach(this.data[1].slice(-SPAN * (this.rate ?? 256)), 4.5) * 1.08, LOUDEST);
    this.limit += (loudest - this.limit) * (loudest > this.limit ? 0.3 : 0.04);
    this.dirty = false;
    this.chart.batch(() => {
      this.chart.setData(this.data, false);
      this.chart.setScale("x", { min: this.head - SPAN, max: this.head });
    });
  }
}

export function zoom(element, { posterior, samples }) {
  const { rate } = posterior.window;
  const coalescence = posterior.coalescence.gps - posterior.window.gps;
  const x = samples.map((_, i) => i / rate - coalescence);
  const wave = posterior.waveform;
  const limit = reach([...samples, ...wave.lower, ...wave.upper], 4) * 1.06;
  const labels = { values: (_, splits) => splits.map((t) => `${t < -0.01 ? "\u2212" : ""}${Math.abs(t).toFixed(1)} s`), incrs: [0.1, 0.2, 0.5] };
  const all = options(element, labels, () => [-limit, limit]);
  all.scales.x.range = [Math.max(x[0], -0.5), Math.min(x.at(-1), 0.15)];
  const chart = new uPlot(all, [x, samples, wave.lower, wave.upper, wave.median], element);
  const forget = restyle(chart);
  const observer = new ResizeObserver(() => {
    if (element.isConnected) chart.setSize({ width: element.clientWidth, height: element.clientHeight });
  });
  observer.observe(element);
  return () => {
    observer.disconnect();
    forget();
    chart.destroy();
  };
}
