// The scrolling spectrogram under a strip, and that of one window. New columns are drawn once, then only shifted.

import { css, kept, themed } from "./charts.js";
import { LOWEST, QTransform } from "./qtransform.js";

const ROWS = 40;
const COLUMNS = 32; // a second
const RING = 512; // columns held: 16 s
const LEFT = 42, RIGHT = 2; // px beside it, as of the charts above
const QUIET = 2.2; // energy of the lowest colour: noise has one on average
const LOUD = 60; // and of the highest
const TICKS = [20, 40, 80, 160, 320];

function rgb(text) {
  const [, hex] = /^#([0-9a-f]{6})$/i.exec(text) ?? [, "888888"];
  return [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

// 256 colours from the ground over the detector's own to that of the text.
function ramp(element) {
  const [ground, middle, top] = ["--raised", "--colour", "--ink"].map((name) => rgb(css(element, name)));
  const mix = (a, b, t) => a.map((from, i) => Math.round(from + (b[i] - from) * t));
  return Array.from({ length: 256 }, (_, k) => (k < 160 ? mix(ground, middle, k / 160) : mix(middle, top, (k - 160) / 95)));
}

const SCALE = 255 / Math.log(LOUD / QUIET);
const shade = (energy) => Math.max(0, Math.min(255, Math.round(SCALE * Math.log(energy / QUIET + 1e-9))));

// The canvas in `element`, as large as that is; `draw(context, width, height)` in CSS pixels.
function fitted(element, canvas) {
  const [width, height, dense] = [element.clientWidth, element.clientHeight, Math.min(devicePixelRatio, 2)];
  if (canvas.width !== Math.round(width * dense) || canvas.height !== Math.round(height * dense)) {
    canvas.width = Math.round(width * dense);
    canvas.height = Math.round(height * dense);
  }
  const context = canvas.getContext("2d");
  context.setTransform(dense, 0, 0, dense, 0, 0);
  context.clearRect(0, 0, width, height);
  return [context, width, height];
}

function frequencies(context, element, transform, height) {
  context.fillStyle = css(element, "--faint");
  context.font = `12px ${css(element, "--sans")}`;
  context.textAlign = "right";
  context.textBaseline = "middle";
  const high = transform.frequencies.at(-1);
  for (const tick of TICKS.filter((hertz) => hertz < high)) {
    const y = height * (1 - Math.log(tick / LOWEST) / Math.log(high / LOWEST));
    context.fillText(String(tick), LEFT - 8, Math.min(Math.max(y, 7), height - 7));
  }
}

function pixels(image, x, energies, colours) {
  for (let row = 0; row < ROWS; row++) {
    const at = 4 * ((ROWS - 1 - row) * image.width + x);
    const energy = energies[row];
    const [r, g, b] = colours[energy === energy ? shade(energy) : 0];
    image.data[at] = r;
    image.data[at + 1] = g;
    image.data[at + 2] = b;
    image.data[at + 3] = energy === energy ? 255 : 0;
  }
}

export class Spectrogram {
  constructor(element) {
    this.element = element;
    this.canvas = element.appendChild(document.createElement("canvas"));
    this.ring = document.createElement("canvas");
    this.ring.width = RING;
    this.ring.height = ROWS;
    this.energies = Array.from({ length: RING }, () => new Float32Array(ROWS));
    this.clear();
    this.span = null; // s that it shows
    themed(() => this.recolour());
    new ResizeObserver(() => this.again()).observe(element);
  }

  clear() {
    this.tail = []; // samples that later columns need
    this.at = 0; // s at the first of them
    this.next = null; // number of the next column
    this.energies.forEach((column) => column.fill(NaN));
    this.ring.getContext("2d").clearRect(0, 0, RING, ROWS);
  }

  // Seconds by which it is behind its samples: the longest window's reach.
  get lag() {
    return this.transform ? this.transform.half / this.transform.rate + 1 / COLUMNS : 0;
  }

  // Samples from `start` (s) on that follow those before, or leave a gap.
  add(start, rate, samples) {
    if (this.transform?.rate !== rate) this.transform = Object.assign(new QTransform(rate, ROWS), { rate });
    if (this.next === null || Math.abs(start - this.at - this.tail.length / rate) > 1.5 / rate) {
      const before = this.next;
      this.tail = [];
      this.at = start;
      this.next = Math.ceil(start * COLUMNS);
      if (before !== null) this.put(Array.from({ length: Math.min(RING, Math.max(this.next - before, 0)) }, (_, k) => before + k), null);
    }
    this.tail.push(...samples);
    const { half } = this.transform;
    const fresh = [];
    for (; ; this.next++) {
      const centre = Math.round((this.next / COLUMNS - this.at) * rate);
      if (centre + half >= this.tail.length) break;
      fresh.push(this.next);
      this.transform.column(this.tail, centre, this.energies[this.next % RING]);
    }
    this.put(fresh);
    const spare = Math.round((this.next / COLUMNS - this.at) * rate) - half - 1;
    if (spare > rate / 2) {
      this.tail.splice(0, spare);
      this.at += spare / rate;
    }
  }

  // Draw columns into the ring; `energies` null: they are a gap.
  put(columns, energies) {
    const context = this.ring.getContext("2d");
    this.colours ??= ramp(this.element);
    const image = context.createImageData(1, ROWS);
    for (const column of columns) {
      if (energies === null) this.energies[column % RING].fill(NaN);
      pixels(image, 0, this.energies[column % RING], this.colours);
      context.putImageData(image, column % RING, 0);
    }
  }

  recolour() {
    this.colours = ramp(this.element);
    this.put(Array.from({ length: RING }, (_, k) => k));
    this.again();
  }

  // Draw what is shown once more, for a strip that holds still does not.
  again() {
    if (this.span) this.draw(...this.span);
  }

  // From `from` to `to` (s). The ring may be cut in two there.
  draw(from, to) {
    if (this.next === null) return;
    this.span = [from, to];
    if (!this.element.clientWidth) return; // hidden: drawn when it is shown
    const [context, width, height] = fitted(this.element, this.canvas);
    const wide = width - LEFT - RIGHT, scale = wide / ((to - from) * COLUMNS);
    context.save();
    context.beginPath();
    context.rect(LEFT, 0, wide, height);
    context.clip();
    const first = Math.max(Math.floor(from * COLUMNS) - 1, this.next - RING);
    const last = Math.min(Math.ceil(to * COLUMNS) + 1, this.next);
    for (let column = first; column < last; ) {
      const at = ((column % RING) + RING) % RING;
      const count = Math.min(last - column, RING - at);
      const x = LEFT + (column - 0.5 - from * COLUMNS) * scale;
      context.drawImage(this.ring, at, 0, count, ROWS, x, 0, count * scale, height);
      column += count;
    }
    context.restore();
    frequencies(context, this.element, this.transform, height);
  }
}

// The spectrogram of one window, from `from` to `to` s after its first sample.
export function still(element, samples, rate, [from, to]) {
  const canvas = element.appendChild(document.createElement("canvas"));
  const transform = new QTransform(rate, ROWS);
  const first = Math.max(0, Math.floor(from * rate)), last = Math.min(samples.length, Math.ceil(to * rate));
  const columns = Array.from({ length: last - first }, (_, k) => {
    const out = new Float32Array(ROWS);
    transform.column(samples, first + k, out);
    return out;
  });
  const draw = () => {
    if (!element.clientWidth) return;
    const image = new ImageData(columns.length, ROWS);
    const colours = ramp(element);
    columns.forEach((energies, x) => pixels(image, x, energies, colours));
    const flat = document.createElement("canvas");
    flat.width = columns.length;
    flat.height = ROWS;
    flat.getContext("2d").putImageData(image, 0, 0);
    const [context, width, height] = fitted(element, canvas);
    const scale = (width - LEFT - RIGHT) / (to - from);
    context.save();
    context.beginPath();
    context.rect(LEFT, 0, width - LEFT - RIGHT, height);
    context.clip();
    context.drawImage(flat, LEFT + (first / rate - from) * scale, 0, (columns.length / rate) * scale, height);
    context.restore();
    frequencies(context, element, transform, height);
  };
  return kept(element, draw);
}
