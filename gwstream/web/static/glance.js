// What is told of the daemon as a whole: connections, stages, drops, calibration, and what detectors found together.

import { $, clock, fixed, make, minus, ms, range } from "./dom.js";

const STAGES = ["source", "conditioning", "batching", "inference", "summary", "publish"];
const reports = new Map(); // of known signals, by detector

export function link(id, state, text) {
  $(id).dataset.state = state;
  $(id).querySelector("dd").textContent = text;
}

export function about(facts) {
  document.title = facts.instance ? `${facts.instance} \u00b7 gwstream` : "gwstream";
  const instance = facts.instance === "gwstream" ? undefined : facts.instance;
  const { name, version } = facts.model ?? {};
  const model = [name && `model ${name} ${version}`, facts.engine && `on ${facts.engine}`].filter(Boolean).join(" ");
  const load = facts.load && facts.load !== "all" && `overloaded: ${facts.load}`;
  $("about").textContent = [instance, model, load].filter(Boolean).join(", ");
  $("version").textContent = [facts.version && `gwstream ${facts.version}`, facts.broker && `publishing to ${facts.broker}`].filter(Boolean).join(", ");
}

export function broker({ up, reason, outbox }) {
  const kept = outbox ? `, ${outbox} kept` : "";
  link("link-broker", up ? "ok" : "bad", up ? "connected" : `away${kept}`);
  $("link-broker").title = reason;
}

// The longest that something took in each stage of late, with its queue; and which hang.
export function health({ stages, stuck, outbox, dropped }) {
  const hanging = new Map(stuck.map(({ part, seconds }) => [part.split(" ")[0], `${part} stuck for ${seconds.toFixed(0)} s`]));
  $("stages").replaceChildren(...STAGES.map((name) => {
    const { depth, seconds } = stages[name] ?? {};
    const queue = name === "publish" ? outbox : depth;
    const said = hanging.get(name) ?? [seconds ? `${ms(seconds)} ms` : "", queue ? `${queue} waiting` : ""].filter(Boolean).join(", ");
    return make("div", { "data-state": hanging.has(name) ? "bad" : "ok" }, make("dt", {}, name), make("dd", {}, said || "idle"));
  }));
  const told = Object.entries(dropped).sort(([, a], [, b]) => b - a);
  $("dropped").hidden = !told.length;
  $("dropped").querySelector("summary").textContent = `${told.length} ${told.length === 1 ? "kind" : "kinds"} of drops`;
  $("dropped").querySelector("ul").replaceChildren(...told.map(([reason, count]) => make("li", {}, `${reason} `, make("b", {}, String(count)))));
}

// What was known of a daemon that may have been started anew since.
export function clear() {
  reports.clear();
  link("calibrated", "wait", "no known signal yet");
  $("calibrated").title = "";
}

export function calibration(message) {
  if (message.injections) reports.set(message.detector, message);
  else reports.delete(message.detector); // begun anew, by another model or daemon
  const all = [...reports.values()].sort((a, b) => (a.detector < b.detector ? -1 : 1));
  const alarms = all.filter(({ alarm }) => alarm);
  const worst = all.toSorted((a, b) => Math.abs(b.coverage_90 - 0.9) - Math.abs(a.coverage_90 - 0.9))[0];
  const cover = worst && `90 % intervals hold ${fixed(worst.coverage_90, 2)} \u00b1 ${fixed(worst.coverage_90_error, 2)}${all.length > 1 ? ` in ${worst.detector}, the furthest off` : ""}`;
  link("calibrated", alarms.length ? "bad" : worst ? "ok" : "wait", alarms.length ? alarms.map(({ detector, alarm_about }) => `${detector} off: ${alarm_about}`).join(", ") : cover ?? "no known signal yet");
  $("calibrated").title = all.map(({ detector, text }) => `${detector}: ${text}`).join("\n");
}

// Events that detectors share, newest first; `show` the first of some posteriors that is listed, and say whether one is.
export function networks({ networks }, show) {
  const focused = document.activeElement?.closest("#network-list button")?.title;
  $("networks").hidden = !networks.length;
  $("network-list").replaceChildren(...networks.toReversed().map(({ network }) => {
    const { members, snr, chirp_mass, log_bayes, coalescence, quality } = network;
    const first = members.toSorted((a, b) => (b.detector === coalescence.detector) - (a.detector === coalescence.detector)); // the loudest
    const button = make("button", { type: "button", title: network.id },
      make("b", {}, members.map(({ detector }) => detector).join(" + ")),
      make("span", {}, clock(coalescence.gps, 3)),
      make("span", {}, `SNR ${fixed(snr, 1)}`),
      make("span", {}, `ln B ${fixed(log_bayes, 0)}`),
      make("span", {}, `chirp mass ${fixed(chirp_mass.median, 1)} (${range(chirp_mass.p5, chirp_mass.p95, 1)}) Msun`),
      make("span", { class: quality.verdict }, minus(quality.verdict)));
    button.addEventListener("click", () => {
      button.disabled = !show(first.map(({ posterior }) => posterior)); // the list has gone on without them
    });
    return make("li", {}, button);
  }));
  if (focused) [...$("network-list").querySelectorAll("button")].find(({ title }) => title === focused)?.focus();
}
