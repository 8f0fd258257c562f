// What all parts use: elements, numbers as text, times, packed values. Text is only ever set as text.

export const $ = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== undefined));
  return element;
}

export const minus = (text) => text.replace("-", "\u2212");
export const fixed = (value, digits) => (value === null || value === undefined ? "\u2013" : minus(value.toFixed(digits)));
export const ms = (seconds) => fixed(seconds * 1000, seconds < 0.00995 ? 1 : 0);
export const range = (low, high, digits) => `${fixed(low, digits)} \u2013 ${fixed(high, digits)}`;
export const value = (text, unit) => [text, make("small", {}, `\u2009${unit}`)];
export const line = (label, ...content) => make("div", {}, make("dt", {}, label), make("dd", {}, ...content));
export const known = (name) => (/^[A-Z]\d$/.test(name) ? name : ""); // fit to be a class

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

const NONE = -32768;

// How many they are.
export const samples = ({ data }) => ((data.length / 4) * 3 - (data.endsWith("==") ? 2 : data.endsWith("=") ? 1 : 0)) / 2;

// Values that came as 16-bit multiples of a step; what was not finite is NaN.
export function unpack({ step, data }) {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float64Array.from({ length: bytes.length / 2 }, (_, i) => {
    const whole = view.getInt16(2 * i, true);
    return whole === NONE ? NaN : whole * step;
  });
}
