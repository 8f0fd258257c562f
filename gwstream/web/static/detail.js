// The chosen posterior: its window, what it says, how far to trust it, and how long it took.

import { below, beside, layers, plot, reach, signed } from "./charts.js";
import { corner, draws } from "./corner.js";
import { curves } from "./detectors.js";
import { $, clock, fixed, known, line, make, ms, range, unpack, utc, value } from "./dom.js";
import { others } from "./posteriors.js";
import { still } from "./spectrogram.js";

const BEFORE = 0.5, AFTER = 0.15; // s around coalescence that the window's chart shows
const PAUSE = 250; // ms a posterior is chosen before its draws are asked for: the reader may be on the way to another
const PARAMETERS = [["chirp_mass", "Chirp mass", "Msun", 1], ["mass_1", "Mass 1", "Msun", 1], ["mass_2", "Mass 2", "Msun", 1], ["total_mass", "Total mass", "Msun", 1], ["mass_ratio", "Mass ratio", "", 2], ["effective_distance", "Eff. distance", "Gpc", 2]];
const STAGES = [["source", "s0"], ["conditioning_queue", "q"], ["conditioning", "s1"], ["batching", "s2"], ["inference_queue", "q"], ["inference", "s3"], ["summary", "s4"], ["publish", "s5"]];

let shown = null; // id
let endings = []; // of what is drawn

function limits(name, { masses, effective_distance }) {
  const { low, high, least_mass_ratio } = masses;
  const chirp = 2 ** -0.2;
  const all = { mass_1: [low, high], mass_2: [low, high], total_mass: [2 * low, 2 * high], mass_ratio: [least_mass_ratio, 1],
    chirp_mass: [low * chirp, high * chirp], effective_distance: [effective_distance.low, effective_distance.high] };
  return all[name];
}

// An interval on the range the prior allows; what runs over its end comes in again where it is cyclic.
function bar([low, high], from, middle, to) {
  const part = (x) => (100 * (x - low)) / (high - low);
  const out = make("dd", { class: "bar", "aria-hidden": "true" });
  const piece = (a, b) => {
    const element = make("i");
    element.style.left = `${Math.max(part(a), 0)}%`;
    element.style.width = `${Math.min(part(b), 100) - Math.max(part(a), 0)}%`;
    out.append(element);
  };
  piece(from, to);
  if (to > high) piece(low, to - (high - low));
  const tick = make("b");
  tick.style.left = `${part(middle)}%`;
  out.append(tick);
  return out;
}

function row(label, unit, digits, span, from, middle, to) {
  const text = fixed(middle, digits);
  return make("div", {}, make("dt", {}, label), bar(span, from, middle, to),
    make("dd", { class: "value" }, ...(unit ? value(text, unit) : [text])), make("dd", { class: "range" }, range(from, to, digits)));
}

function intervals({ parameters, prior, window }) {
  const rows = PARAMETERS.map(([name, label, unit, digits]) => {
    const { median, p5, p95 } = parameters[name];
    return row(label, unit, digits, limits(name, prior), p5, median, p95);
  });
  const { mean, period, arc } = parameters.phase;
  rows.push(row("Phase", "rad", 2, [0, period], arc.start, mean, arc.end));
  const { p5, median, p95 } = parameters.coalescence_time;
  const offset = (gps) => (gps - window.gps) * 1000;
  const { low, high } = prior.coalescence_time;
  rows.push(row("Time", "ms", 1, [low * 1000, high * 1000], offset(p5), offset(median), offset(p95)));
  return make("dl", { class: "intervals" }, ...rows);
}

function latency({ latency, since_coalescence }) {
  const split = make("div", { class: "split", "aria-hidden": "true" });
  const list = make("dl", { class: "stages" });
  for (const [name, kind] of STAGES) {
    if (!(name in latency)) continue;
    const piece = make("i", { class: kind, title: name });
    piece.style.flexGrow = Math.max(latency[name] / latency.total, 0);
    split.append(piece);
    list.append(line(name.replace("_", " "), ...value(ms(latency[name]), "ms")));
  }
  const when = since_coalescence < 86400 ? `${fixed(since_coalescence, 2)} s after coalescence` : "recorded strain";
  return [make("h3", {}, `Latency ${ms(latency.total)} ms`, make("span", {}, when)), split, list];
}

function trust(message) {
  const { posterior, event, delivery } = message;
  const { sampling, psd } = posterior;
  const calibration = delivery?.calibration;
  return make("dl", { class: "terms" },
    line("ln Bayes factor", `${fixed(posterior.log_bayes, 1)} \u00b1 ${fixed(sampling.log_bayes_error, 2)}`),
    line("Residual p", fixed(posterior.residual_p, 3)),
    line("Residual p at peak", fixed(posterior.peak_residual_p, 3)),
    line("Like the training, p", fixed(posterior.latent_p, 3)),
    line("ESS", `${fixed(sampling.ess, 0)} of ${sampling.draws}`),
    line("Largest weight", fixed(sampling.largest_weight, 3)),
    line("PSD", `${psd.state}, ${psd.averages} avg.`),
    line("PSD drift", fixed(psd.drift, 2)),
    event ? line("Windows", String(event.windows)) : line("Event", "told by another"),
    line("Engine", posterior.engine),
    calibration?.injections ? line("90 % coverage", `${fixed(calibration.coverage_90, 2)} \u00b1 ${fixed(calibration.coverage_90_error, 2)}`) : undefined);
}

function heading(message) {
  const { posterior, network } = message;
  const { quality, coalescence } = posterior;
  const date = utc(coalescence.gps).toISOString().slice(0, 10);
  return make("header", {},
    make("h2", {}, make("b", {}, posterior.detector), `SNR ${fixed(posterior.snr, 1)}`),
    make("p", {}, `${date} ${clock(coalescence.gps, 3)} UTC, GPS ${coalescence.gps.toFixed(4)}`),
    make("p", { class: `verdict ${quality.verdict}` }, [quality.verdict, quality.reasons.join(", ")].filter(Boolean).join(": ")),
    network ? make("p", {}, `With ${others(message)}: SNR ${fixed(network.snr, 1)}, chirp mass ${fixed(network.chirp_mass.median, 1)} (`,
      range(network.chirp_mass.p5, network.chirp_mass.p95, 1), ") Msun") : undefined);
}

function close({ posterior, samples }, chart, gram) {
  const { rate } = posterior.window;
  const strain = unpack(samples);
  const coalescence = posterior.coalescence.gps - posterior.window.gps;
  const x = Array.from(strain, (_, i) => i / rate - coalescence);
  const wave = curves(posterior.waveform);
  const limit = [strain, wave.lower, wave.upper].reduce((most, column) => reach(column, most), 4) * 1.06;
  const span = [Math.max(x[0], -BEFORE), Math.min(x.at(-1), AFTER)];
  const labels = { values: (_, splits) => splits.map((t) => `${t < -0.01 ? "\u2212" : ""}${Math.abs(t).toFixed(1)} s`), incrs: [0.1, 0.2, 0.5] };
  const { end } = plot(chart, {
    scales: { x: { time: false, range: span }, y: { range: () => [-limit, limit] } },
    axes: [below(chart, labels), beside(chart, { incrs: [1, 2, 4, 5, 10, 20, 50], values: (_, splits) => splits.map(signed) })],
    ...layers(chart),
  }, [x, Array.from(strain), ...["lower", "upper", "median"].map((name) => Array.from(wave[name]))]);
  return [end, still(gram, strain, rate, span.map((t) => t + coalescence))];
}

function pairs(id, element) {
  const note = make("p", { class: "empty" }, "Asking for the draws \u2026");
  element.append(note);
  const timer = setTimeout(async () => {
    const answer = await draws(id);
    if (shown !== id) return;
    if (!answer) return void (note.textContent = "The daemon keeps the draws of its latest posteriors; these are gone.");
    note.remove();
    endings.push(corner(element, answer));
  }, PAUSE);
  endings.push(() => clearTimeout(timer));
}

// Shows a message, or none. What has not changed of it stays as it is drawn.
export function detail(message) {
  const aside = $("detail");
  aside.hidden = !message;
  if (message?.posterior.id === shown) return fill(message);
  endings.forEach((end) => end());
  endings = [];
  shown = message?.posterior.id ?? null;
  if (!message) return aside.replaceChildren();
  const { posterior } = message;
  const chart = make("div", { class: "zoom", role: "img", "aria-label": "Whitened window under the reconstructed waveform" });
  const gram = make("div", { class: "gram", role: "img", "aria-label": "Spectrogram of the window, in Hz" });
  const plots = make("div", { class: "corner", role: "img", "aria-label": "Corner plot: draws of each two parameters" });
  aside.className = known(posterior.detector);
  aside.replaceChildren(
    make("div", { class: "told" }), chart, gram,
    make("h3", {}, "Parameters", make("span", {}, "median, 90 % interval, on the prior")),
    intervals(posterior),
    make("h3", {}, "Draws", make("span", {}, "regions of 50 and 90 %")), plots,
    make("div", { class: "way" }),
    make("h3", {}, "How far to trust it"),
    make("div", { class: "trust" }),
    make("p", { class: "id" }, posterior.id),
  );
  aside.scrollTop = 0;
  fill(message);
  endings.push(...close(message, chart, gram));
  pairs(posterior.id, plots);
}

// What may come later: event, network, delivery.
function fill(message) {
  const aside = $("detail");
  aside.querySelector(".told").replaceChildren(heading(message));
  aside.querySelector(".way").replaceChildren(...(message.delivery ? latency(message.delivery) : [make("h3", {}, "Not acknowledged by the broker yet")]));
  aside.querySelector(".trust").replaceChildren(trust(message));
}
