// What the line charts share: colours from the style sheet, axes, and keeping to their place.

import { minus } from "./dom.js";

export const calm = matchMedia("(prefers-reduced-motion: reduce)");
export const dark = matchMedia("(prefers-color-scheme: dark)");

const GUTTER = 42; // px of the vertical axis: the same for what lies one above the other
const THEMES = new Set(); // what to do when the colours change
dark.addEventListener("change", () => requestAnimationFrame(() => THEMES.forEach((again) => again())));

// Calls `again` at each change of the colours; returns how to end that.
export function themed(again) {
  THEMES.add(again);
  return () => THEMES.delete(again);
}

// Calls `draw` at each change of the element's size and of the colours; returns how to end that.
export function kept(element, draw) {
  const observer = new ResizeObserver(draw);
  observer.observe(element);
  const forget = themed(draw);
  return () => {
    observer.disconnect();
    forget();
  };
}

// A colour of the style sheet, remembered: asking for one makes the browser work out the page's style.
const remembered = new WeakMap();
export function css(element, name) {
  if (!remembered.has(element)) remembered.set(element, new Map());
  const of = remembered.get(element);
  const key = name + dark.matches;
  if (!of.has(key)) of.set(key, getComputedStyle(element).getPropertyValue(name).trim());
  return of.get(key);
}

export const signed = (v) => minus(String(v));

export function axis(element, more = {}) {
  return {
    stroke: () => css(element, "--faint"),
    font: `12px ${css(element, "--sans")}`,
    ticks: { show: false },
    grid: { stroke: () => css(element, "--grid"), width: 1 },
    ...more,
  };
}

export const below = (element, more) => axis(element, { size: 24, gap: 6, space: 80, ...more });
export const beside = (element, more) => axis(element, { size: GUTTER, gap: 8, space: 24, ...more });

// A chart in `element`, as large as that is, for as long as it is there. Returns the chart and how to end it.
export function plot(element, options, data) {
  const size = () => ({ width: Math.max(element.clientWidth, 50), height: Math.max(element.clientHeight, 50) });
  const all = { ...size(), pxAlign: false, legend: { show: false }, cursor: { show: false }, padding: [6, 2, 0, 0], ...options };
  const chart = new uPlot(all, data, element);
  const forget = themed(() => chart.redraw(false, true));
  const observer = new ResizeObserver(() => {
    if (element.isConnected && element.clientWidth) chart.setSize(size());
  });
  observer.observe(element);
  const end = () => {
    observer.disconnect();
    forget();
    chart.destroy();
  };
  return { chart, end };
}

// The series of strain under a waveform with its band: lower, upper, median.
export function layers(element) {
  const plain = { stroke: "transparent", width: 0, points: { show: false } };
  return {
    series: [
      {},
      { stroke: () => css(element, "--strain"), width: 1, points: { show: false } },
      plain,
      plain,
      { stroke: () => css(element, "--colour"), width: 1.75, points: { show: false } },
    ],
    bands: [{ series: [3, 2], fill: () => css(element, "--colour") + "40" }],
  };
}

// Whether it can be seen; `seen.now` follows.
export function seen(element) {
  const state = { now: true };
  new IntersectionObserver((entries) => (state.now = entries.at(-1).isIntersecting)).observe(element);
  return state;
}

export const reach = (values, least) => values.reduce((most, v) => (Math.abs(v) > most ? Math.abs(v) : most), least);
