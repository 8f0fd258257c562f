// A detector: how it does, its strain with what was found in it, and its trends. Buttons show and hide them.

import { $, clock, fixed, known, make, samples, unpack, value } from "./dom.js";
import { Spectrogram } from "./spectrogram.js";
import { Strip } from "./strip.js";
import { Trends } from "./trends.js";

const FIRST = 4; // detectors shown until the reader says otherwise
const STALE = 30; // s without strain
const FACTS = [["range", "Range 30+30"], ["psd", "PSD history"], ["drift", "PSD drift"], ["age", "Data age"], ["window", "Last window"], ["snr", "Gate SNR"], ["calibration", "90 % coverage"]];
const KEY = "gwstream.hidden";

const detectors = new Map(); // name -> view
let hidden = remembered(); // names, or null: the reader has not said

function remembered() {
  try {
    const names = JSON.parse(localStorage.getItem(KEY));
    return Array.isArray(names) ? new Set(names) : null;
  } catch {
    return null; // storage is forbidden or holds something else: begin anew
  }
}

const isHidden = (name, place) => (hidden ? hidden.has(name) : place >= FIRST);
const inOrder = () => [...detectors.keys()].filter((name) => !detectors.get(name).gone).sort();

export function toggle(name) {
  hidden ??= new Set(inOrder().filter(isHidden));
  if (!hidden.delete(name)) hidden.add(name);
  try {
    localStorage.setItem(KEY, JSON.stringify([...hidden]));
  } catch { /* then it is forgotten with the page */ }
  arrange();
}

export const toggleNumber = (place) => inOrder()[place] && toggle(inOrder()[place]);

function arrange() {
  inOrder().forEach((name, place) => {
    const { article, chip } = detectors.get(name);
    article.hidden = isHidden(name, place);
    chip.hidden = false;
    chip.setAttribute("aria-pressed", !article.hidden);
    chip.title = `${article.hidden ? "Show" : "Hide"} ${name}${place < 9 ? ` (key ${place + 1})` : ""}`;
  });
  for (const { gone, article, chip } of detectors.values()) if (gone) article.hidden = chip.hidden = true;
  $("all-hidden").hidden = !inOrder().length || [...detectors.values()].some(({ article }) => !article.hidden);
}

export function view(name) {
  const before = detectors.get(name);
  if (before?.gone) {
    before.gone = false;
    arrange();
  }
  if (before) {
    before.told = true;
    return before;
  }
  const facts = {};
  const list = make("dl", { class: "facts" });
  for (const [key, label] of FACTS) {
    facts[key] = make("dd", {}, "\u2013");
    list.append(make("dt", {}, label), facts[key]);
  }
  const state = make("span", { class: "state", "data-state": "waiting" }, "waiting");
  const tag = make("span", { class: "tag", hidden: "" }, "simulated");
  const empty = make("p", { class: "empty" }, "No whitened strain yet");
  const strip = make("div", { class: "strip", role: "img", "aria-label": `Whitened strain of ${name}, in noise standard deviations` }, empty);
  const gram = make("div", { class: "gram", role: "img", "aria-label": `Spectrogram of ${name}, in Hz` });
  const trends = new Trends(name);
  const title = make("div", { class: "name" }, make("h2", {}, name), state, tag);
  const article = make("article", { class: `detector ${known(name)}`, "aria-label": name }, make("div", {}, title, list), make("div", { class: "scroll" }, strip, gram), trends.element);
  const chip = make("button", { type: "button", class: `chip ${known(name)}`, "data-state": "waiting" }, name);
  chip.addEventListener("click", () => toggle(name));
  const after = inOrder().find((other) => other > name);
  $("detectors").insertBefore(article, after ? detectors.get(after).article : null);
  $("chips").insertBefore(chip, after ? detectors.get(after).chip : null);
  trends.begin();
  const made = { article, chip, facts, state, tag, empty, trends, strip: new Strip(strip, new Spectrogram(gram)), last: null, heard: 0, told: true, gone: false };
  detectors.set(name, made);
  arrange();
  return made;
}

export function detector(message) {
  const known = view(message.detector);
  known.last = message;
  known.heard = performance.now();
  const { facts } = known;
  known.tag.hidden = !message.simulated;
  facts.range.replaceChildren(...(message.range_mpc ? value(fixed(message.range_mpc, 0), "Mpc") : ["\u2013"]));
  facts.psd.replaceChildren(...value(fixed(message.history, 0), "s"));
  facts.psd.title = `${message.averages} averages`;
  facts.drift.textContent = fixed(message.drift, 2);
  facts.drift.title = "Largest ln ratio, over bands, of the last seconds' noise to the spectrum";
  facts.snr.textContent = fixed(message.snr, 1);
  facts.snr.title = `${message.windows} windows judged, ${message.triggers} behind the gate`;
  known.trends.add(message);
  age(known);
}

function age({ last, heard, facts, state, chip }) {
  if (!last) return;
  const since = (performance.now() - heard) / 1000;
  const seconds = last.age === null ? null : last.age + since;
  const stale = last.live && last.silent + since > STALE;
  chip.dataset.state = state.dataset.state = stale ? "stale" : last.state;
  state.textContent = stale ? "no strain" : last.state;
  if (seconds === null) facts.age.textContent = "\u2013";
  else if (!last.live || seconds > 86400) facts.age.textContent = "recorded";
  else facts.age.replaceChildren(...value(fixed(seconds, 1), "s"));
  facts.age.className = stale ? "bad" : "";
}

setInterval(() => detectors.forEach(age), 250);

// How often the 90 % intervals of known signals held the truth of late.
export function calibration(message) {
  const { calibration: fact } = view(message.detector).facts;
  const said = `${fixed(message.coverage_90, 2)} \u00b1 ${fixed(message.coverage_90_error, 2)}`;
  fact.replaceChildren(...(message.injections ? [said, make("small", { class: "count" }, ` of ${message.injections}`)] : ["\u2013"]));
  fact.title = message.text;
  fact.className = message.alarm ? "bad" : "";
}

export function strain(message) {
  const known = view(message.detector);
  known.empty.hidden = true;
  known.strip.add(message);
  const end = Number(BigInt(message.gps_ns) / 1000000n) / 1000 + samples(message) / message.rate;
  known.facts.window.textContent = clock(end);
}

export const trend = (message) => view(message.detector).trends.history(message);
export const spectrum = (message) => view(message.detector).trends.spectrum(message);

// GPS ns; a number resolves 0.24 us, far less than a sample.
function start({ window }) {
  const seconds = Math.floor(window.gps);
  return BigInt(seconds) * 1000000000n + BigInt(Math.round((window.gps - seconds) * 1e9));
}

export const curves = ({ median, lower, upper }) => ({ median: unpack(median), lower: unpack(lower), upper: unpack(upper) });

// Draw the waveforms of these posteriors of a detector over its strain.
export function overlay(name, posteriors) {
  view(name).strip.show(posteriors.map((posterior) => ({ ns: start(posterior), rate: posterior.window.rate, wave: curves(posterior.waveform) })));
}

export function clear() {
  for (const one of detectors.values()) {
    one.told = false;
    one.strip.clear();
    one.trends.clear();
  }
}

// All that a daemon knows is told: detectors that another had before it are not shown any more.
export function caughtUp() {
  for (const one of detectors.values()) one.gone = !one.told;
  arrange();
}

export function freeze(frozen) {
  for (const { strip } of detectors.values()) strip.freeze(frozen);
}
