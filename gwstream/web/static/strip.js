// Whitened strain that scrolls, under the reconstructed waveforms: median and 90 % band.

import { below, beside, calm, layers, plot, reach, seen, signed } from "./charts.js";
import { clock, unpack } from "./dom.js";
import { each } from "./frames.js";

export const SPAN = 12; // s it shows
const KEEP = 15; // s it holds
const HELD = 200; // messages kept of the time it holds still: what it shows then, and more
const LOUDEST = 30; // noise sd: a glitch louder than this runs out of the picture

// Where the wave is large enough to be seen: the rest of the window would only be a line on zero.
function visible(wave) {
  const loud = (i) => Math.abs(wave.median[i]) > 0.3;
  let first = 0, last = wave.median.length - 1;
  while (first < last && !loud(first)) first++;
  while (last > first && !loud(last)) last--;
  return [Math.max(first - 2, 0), Math.min(last + 2, wave.median.length - 1)];
}

export class Strip {
  // `spectrogram` goes along with it.
  constructor(element, spectrogram) {
    this.spectrogram = spectrogram;
    this.held = null; // messages that came while it holds still
    this.clear();
    const whole = (chart, t) => chart.valToPos(t, "x") < chart.width - 42 - 30; // a label at the edge would be cut
    const labels = { values: (chart, splits) => splits.map((t) => (whole(chart, t) ? clock(this.epoch + t) : "")), incrs: [1, 2, 5, 10] };
    this.chart = plot(element, {
      scales: { x: { time: false }, y: { range: () => [-this.limit, this.limit] } },
      axes: [below(element, labels), beside(element, { incrs: [1, 2, 4, 5, 10, 20, 50], values: (_, splits) => splits.map(signed) })],
      ...layers(element),
    }, this.data).chart;
    this.seen = seen(element);
    each((elapsed) => this.draw(elapsed));
  }

  clear() {
    if (this.held) this.held = [];
    this.epoch = 0; // GPS s of x = 0
    this.data = [[], [], [], [], []];
    this.waves = [];
    this.end = 0; // of the data
    this.head = 0; // right edge of the picture
    this.piece = 1;
    this.limit = 5;
    this.fresh = true;
    this.spectrogram.clear();
  }

  // Hold still, or catch up.
  freeze(frozen) {
    const held = this.held ?? [];
    this.held = frozen ? [] : null;
    if (!frozen) held.forEach((message) => this.add(message));
  }

  add(message) {
    if (this.held) {
      this.held.push(message);
      if (this.held.length > HELD) this.held.shift();
      return;
    }
    const ns = BigInt(message.gps_ns);
    if (!this.epoch) {
      this.epoch = Number(ns / 1000000000n);
      this.head = this.at(ns);
    }
    const [x, y, ...wave] = this.data;
    const { rate } = message;
    const start = this.at(ns);
    if (x.length && start < this.end - 1) return this.restart(message); // time went back: another run
    if (x.length && start > this.end + 1.5 / rate) { // a gap breaks the line
      x.push(this.end + 0.5 / rate);
      y.push(null);
      wave.forEach((w) => w.push(null));
    }
    const samples = unpack(message);
    samples.forEach((sample, i) => {
      x.push(start + i / rate);
      y.push(Number.isNaN(sample) ? null : sample);
      wave.forEach((w) => w.push(null));
    });
    this.spectrogram.add(start, rate, samples);
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
      const [first, last] = visible(wave);
      let k = x.findIndex((t) => t > start + (first - 0.5) / rate);
      for (let i = first; i <= last && k >= 0 && k < x.length; k++) {
        i = Math.round((x[k] - start) * rate);
        if (i < first || i > last) continue;
        lower[k] = wave.lower[i];
        upper[k] = wave.upper[i];
        median[k] = wave.median[i];
      }
    }
    this.fresh = true;
  }

  // The picture runs behind the data by about one piece, so that it moves evenly though data come in jumps.
  draw(elapsed) {
    if (this.held || document.hidden || !this.seen.now) return;
    const before = this.head;
    const end = this.end - this.spectrogram.lag;
    const behind = end - this.head - (0.5 * this.piece + 0.1);
    if (calm.matches) this.head = end;
    else if (behind > 4) this.head = end - this.piece;
    else this.head = Math.min(this.head + elapsed * Math.max(0, 1 + 0.6 * behind), end);
    if (!this.fresh && this.head === before) return;
    const loudest = Math.min(reach(this.data[1].slice(-SPAN * (this.rate ?? 256)), 4.5) * 1.08, LOUDEST);
    this.limit += (loudest - this.limit) * (loudest > this.limit ? 0.4 : 0.06);
    this.chart.batch(() => {
      if (this.fresh) this.chart.setData(this.data, false);
      this.chart.setScale("x", { min: this.head - SPAN, max: this.head });
    });
    this.fresh = false;
    this.spectrogram.draw(this.head - SPAN, this.head);
  }
}
