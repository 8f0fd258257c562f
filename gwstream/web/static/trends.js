// Three small charts of a detector: loudness and evidence over minutes, noise against the usual, range over hours.

import { axis, below, beside, css, plot, seen, signed } from "./charts.js";
import { clock, make, unpack } from "./dom.js";

const SECONDS = 600; // of loudness shown
const LEAST = 120; // s that a chart shows though there is less
const RANGES = 720; // values of the range held
const RANGE_STEP = 30; // s between two of them
const GAP = 5; // s without a value that break the line
const SIZES = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079";
const power = (v) => `10\u207b${[...String(-v)].map((digit) => SIZES[digit]).join("")}`;
const minutes = (_, splits) => splits.map((t) => clock(t).slice(0, 5));
const plain = (_, splits) => splits.map(signed);
const STEPS = [60, 120, 300, 600, 1800, 3600, 7200];

function panel(kind, title, ...key) {
  const chart = make("div", { class: "chart", role: "img", "aria-label": title });
  const heading = make("h3", {}, title, make("span", {}, ...key));
  return { element: make("div", { class: `panel ${kind}` }, heading, chart), chart, heading };
}

const mark = (kind, text) => make("span", { class: `key ${kind}` }, text);
const line = (element, more) => ({ stroke: () => css(element, "--colour"), width: 1.25, points: { show: false }, ...more });

export class Trends {
  constructor(name) {
    this.element = make("div", { class: "trends" });
    this.loud = panel("loud", "Loudness", mark("line", "SNR"), mark("dot", "ln Bayes factor"));
    this.noise = panel("noise", "Noise", make("span", {}, "1/\u221aHz"), mark("dash", "usual"));
    this.range = panel("range", "Range", "Mpc");
    for (const { element, chart } of [this.loud, this.noise, this.range]) {
      chart.setAttribute("aria-label", `${chart.getAttribute("aria-label")} of ${name}`);
      this.element.append(element);
    }
    this.seconds = [[], []];
    this.bayes = [[], []];
    this.ranges = [[], []];
  }

  // Once it is in the page, for charts measure their place.
  begin() {
    this.loudChart = loudness(this.loud.chart);
    this.noiseChart = spectrum(this.noise.chart);
    this.rangeChart = ranges(this.range.chart);
    this.seen = seen(this.element);
  }

  clear() {
    this.seconds = [[], []];
    this.bayes = [[], []];
    this.ranges = [[], []];
    this.draw();
  }

  history({ loudness, ranges, bayes }) {
    this.clear();
    loudness.forEach(([gps, snr]) => this.second(gps, snr));
    ranges.forEach(([gps, mpc]) => push(this.ranges, gps, mpc, RANGES, 2 * RANGE_STEP));
    this.bayes = [bayes.map(([gps]) => gps), bayes.map(([, ln]) => ln)];
    this.draw();
  }

  second(gps, snr) {
    push(this.seconds, gps, snr, SECONDS, GAP);
  }

  add({ data_end_ns, peak, range_mpc }) {
    const gps = Number(BigInt(data_end_ns) / 1000000000n);
    if (!gps) return;
    if (peak) this.second(...peak);
    if (range_mpc && !(gps - this.ranges[0].at(-1) < RANGE_STEP)) push(this.ranges, gps, range_mpc, RANGES, 2 * RANGE_STEP);
    if (this.seen.now && !document.hidden) this.draw();
  }

  posterior({ coalescence, log_bayes }) {
    if (log_bayes === null) return;
    this.bayes[0].push(coalescence.gps);
    this.bayes[1].push(log_bayes);
    if (this.bayes[0].length > 256) this.bayes.forEach((column) => column.shift());
  }

  spectrum({ low, width, noise, usual }) {
    const now = Array.from(unpack(noise));
    const x = now.map((_, k) => low + k * width);
    this.noiseChart.setData([x, now.map(number), usual ? Array.from(unpack(usual), number) : x.map(() => null)]);
    this.noise.heading.querySelector(".dash").textContent = usual ? usual.name.replace("_", " ") : "no usual one";
  }

  draw() {
    const now = this.seconds[0].at(-1) ?? this.ranges[0].at(-1);
    if (!this.loudChart || now === undefined) return;
    const order = this.bayes[0].map((_, k) => k).filter((k) => this.bayes[0][k] > now - SECONDS).sort((a, b) => this.bayes[0][a] - this.bayes[0][b]);
    const points = this.bayes.map((column) => order.map((k) => column[k]));
    this.loudChart.batch(() => {
      this.loudChart.setData(points[0].length ? uPlot.join([this.seconds, points]) : [...this.seconds, this.seconds[0].map(() => null)], false);
      this.loudChart.setScale("x", { min: Math.max(now - SECONDS, Math.min(this.seconds[0][0] ?? now, now - LEAST)), max: now + 2 });
    });
    const first = this.ranges[0][0] ?? now;
    this.rangeChart.batch(() => {
      this.rangeChart.setData([[...this.ranges[0], now], [...this.ranges[1], this.ranges[1].at(-1) ?? null]], false);
      this.rangeChart.setScale("x", { min: Math.min(first, now - LEAST), max: now });
    });
    const latest = this.ranges[1].at(-1);
    this.range.heading.querySelector("span").textContent = latest ? `${latest.toFixed(0)} Mpc` : "Mpc";
  }
}

const number = (v) => (Number.isNaN(v) ? null : v);

// A value at a time; a line does not cross a longer silence, and a recording that starts again begins anew.
function push(columns, at, value, most, silence) {
  const [x, y] = columns;
  if (x.length && at < x.at(-1) - 2) x.length = y.length = 0;
  if (x.length && at <= x.at(-1)) return void (y[y.length - 1] = Math.max(y.at(-1) ?? value, value)); // windows overlap
  if (x.length && at - x.at(-1) > silence) {
    x.push(x.at(-1) + 1);
    y.push(null);
  }
  x.push(at);
  y.push(value);
  while (x.length > most) {
    x.shift();
    y.shift();
  }
}

function loudness(element) {
  return plot(element, {
    scales: {
      x: { time: false },
      y: { range: (_, low, high) => [0, Math.max(10, (high ?? 0) * 1.1)] },
      b: { range: (_, low, high) => [Math.min(0, (low ?? 0) * 1.1), Math.max(20, (high ?? 0) * 1.1)] },
    },
    axes: [
      below(element, { values: minutes, incrs: STEPS, space: 60 }),
      beside(element, { incrs: [2, 4, 5, 10, 20, 50], values: plain }),
      axis(element, { scale: "b", side: 1, size: 34, gap: 6, space: 24, grid: { show: false }, incrs: [5, 10, 20, 50, 100, 200, 500], values: plain }),
    ],
    series: [
      {},
      line(element, {}),
      { scale: "b", stroke: () => css(element, "--ink"), fill: () => css(element, "--ink"), paths: () => null, points: { show: true, size: 5, width: 0, fill: () => css(element, "--ink") } },
    ],
  }, [[], [], []]).chart;
}

function spectrum(element) {
  const hertz = [20, 30, 50, 100, 200, 400];
  const within = ({ scales: { x } }) => hertz.filter((f) => f >= x.min && f <= x.max);
  return plot(element, {
    padding: [6, 12, 0, 0], // for the last label
    scales: { x: { time: false, distr: 3, log: 10, range: (chart) => [chart.data[0][0] ?? 16, chart.data[0].at(-1) ?? 110] }, y: { range: (_, low, high) => (low === null ? [-24, -22] : [Math.floor(low * 4 - 0.5) / 4, Math.ceil(high * 4 + 0.5) / 4]) } },
    axes: [
      below(element, { splits: within, values: plain, filter: (_, splits) => splits }),
      beside(element, { size: 42, incrs: [1, 2], values: (_, splits) => splits.map(power) }),
    ],
    series: [
      {},
      line(element, {}),
      { stroke: () => css(element, "--muted"), width: 1.25, dash: [4, 3], points: { show: false } },
    ],
  }, [[], [], []]).chart;
}

function ranges(element) {
  return plot(element, {
    padding: [6, 16, 0, 0],
    scales: { x: { time: false }, y: { range: (_, low, high) => [0, Math.max(100, (high ?? 0) * 1.15)] } },
    axes: [
      below(element, { values: minutes, incrs: STEPS, space: 50 }),
      beside(element, { incrs: [50, 100, 200, 500, 1000, 2000, 5000], values: plain }),
    ],
    series: [{}, line(element, { fill: () => css(element, "--colour") + "22" })],
  }, [[], []]).chart;
}
