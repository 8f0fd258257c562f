// The live page: listens to /events and shows what it hears. Everything is text or a canvas; nothing is ever parsed as HTML.

import { Strip, clock, utc, zoom } from "./charts.js";

const ROWS = 24;
const $ = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== undefined));
  return element;
}

const minus = (text) => text.replace("-", "\u2212");
const fixed = (value, digits) => (value === null || value === undefined ? "\u2013" : minus(value.toFixed(digits)));
const ms = (seconds) => fixed(seconds * 1000, seconds < 0.00995 ? 1 : 0);
const range = (low, high, digits) => `${fixed(low, digits)} \u2013 ${fixed(high, digits)}`;
const above = matchMedia("(max-width: 1180px)"); // the detail stands over the list
const known = (name) => (/^[A-Z]\d$/.test(name) ? name : "");

// ---- state ----------------------------------------------------------------------------------------------------------

const detectors = new Map(); // name -> view
let posteriors = []; // newest last
let selected = null; // id
let pinned = false; // the reader has chosen a row
let history = true; // what is being told happened before this page opened
let unzoom = () => {};

// ---- header ---------------------------------------------------------------------------------------------------------

function link(id, state, text) {
  $(id).dataset.state = state;
  $(id).querySelector("dd").textContent = text;
}

function about(facts) {
  document.title = facts.instance ? `${facts.instance} \u00b7 gwstream` : "gwstream";
  const instance = facts.instance === "gwstream" ? undefined : facts.instance;
  const { name, version } = facts.model ?? {};
  const model = [name && `model ${name} ${version}`, facts.engine && `on ${facts.engine}`].filter(Boolean).join(" ");
  const load = facts.load && facts.load !== "all" && `overloaded: ${facts.load}`;
  $("about").textContent = [instance, model, load].filter(Boolean).join(", ");
  $("version").textContent = [facts.version && `gwstream ${facts.version}`, facts.broker && `publishing to ${facts.broker}`].filter(Boolean).join(", ");
  (facts.detectors ?? []).forEach(view);
}

function broker({ up, reason, outbox }) {
  const kept = outbox ? `, ${outbox} kept` : "";
  link("link-broker", up ? "ok" : "bad", up ? "connected" : `away${kept}`);
  $("link-broker").title = reason;
}

// ---- detectors ------------------------------------------------------------------------------------------------------

const FACTS = [["range", "Range 30+30"], ["psd", "PSD history"], ["averages", "Averages"], ["age", "Data age"], ["window", "Last window"], ["snr", "Gate SNR"], ["calibration", "90 % coverage"]];

function view(name) {
  if (detectors.has(name)) return detectors.get(name);
  const facts = {};
  const list = make("dl", { class: "facts" });
  for (const [key, label] of FACTS) {
    facts[key] = make("dd", {}, "\u2013");
    list.append(make("dt", {}, label), facts[key]);
  }
  const state = make("span", { class: "state", "data-state": "waiting" }, "waiting");
  const tag = make("span", { class: "tag", hidden: "" }, "simulated");
  const empty = make("p", { class: "empty" }, "No whitened strain yet");
  const strip = make("div", { class: "strip", role: "img", "aria-label": `Whitened strain of ${name}` }, empty);
  const title = make("div", { class: "name" }, make("h2", {}, name), state, tag);
  const article = make("article", { class: `detector ${known(name)}` }, make("div", {}, title, list), strip);
  const after = [...detectors.keys()].filter((other) => other > name).sort()[0];
  $("detectors").insertBefore(article, after ? detectors.get(after).article : null);
  const made = { article, facts, state, tag, empty, strip: new Strip(strip), last: null, heard: 0 };
  detectors.set(name, made);
  return made;
}

const value = (text, unit) => [text, make("small", {}, `\u2009${unit}`)];

function detector(message) {
  const known = view(message.detector);
  known.last = message;
  known.heard = performance.now();
  const { facts } = known;
  known.tag.hidden = !message.simulated;
  facts.range.replaceChildren(...(message.range_mpc ? value(fixed(message.range_mpc, 0), "Mpc") : ["\u2013"]));
  facts.psd.replaceChildren(...value(fixed(message.history, 0), "s"));
  facts.averages.textContent = message.averages;
  facts.snr.textContent = fixed(message.snr, 1);
  facts.snr.title = `${message.windows} windows judged, ${message.triggers} behind the gate`;
  age(known);
}

function age({ last, heard, facts, state }) {
  if (!last) return;
  const since = (performance.now() - heard) / 1000;
  const seconds = last.age === null ? null : last.age + since;
  const stale = last.live && last.silent + since > 30;
  state.dataset.state = stale ? "stale" : last.state;
  state.textContent = stale ? "no strain" : last.state;
  if (seconds === null) facts.age.textContent = "\u2013";
  else if (!last.live || seconds > 86400) facts.age.textContent = "recorded";
  else facts.age.replaceChildren(...value(fixed(seconds, 1), "s"));
  facts.age.className = stale ? "bad" : "";
}

// How often the 90 % intervals of known signals held the truth of late.
function calibration(message) {
  const { calibration: fact } = view(message.detector).facts;
  const said = `${fixed(message.coverage_90, 2)} \u00b1 ${fixed(message.coverage_90_error, 2)}`;
  fact.replaceChildren(...(message.injections ? [said, make("small", { class: "count" }, ` of ${message.injections}`)] : ["\u2013"]));
  fact.title = message.text;
  fact.className = message.alarm ? "bad" : "";
}

function strain(message) {
  const known = view(message.detector);
  known.empty.hidden = true;
  known.strip.add(message);
  const end = Number(BigInt(message.gps_ns) / 1000000n) / 1000 + message.samples.length / message.rate;
  known.facts.window.textContent = clock(end);
}

function overlay(name) {
  const waves = posteriors
    .filter(({ posterior, event }) => event && posterior.detector === name)
    .map(({ posterior }) => ({ ns: start(posterior), rate: posterior.window.rate, wave: posterior.waveform }));
  view(name).strip.show(waves);
}

// GPS ns; a number resolves 0.24 us, far less than a sample.
function start({ window }) {
  const seconds = Math.floor(window.gps);
  return BigInt(seconds) * 1000000000n + BigInt(Math.round((window.gps - seconds) * 1e9));
}

// ---- posteriors -----------------------------------------------------------------------------------------------------

function posterior(message) {
  posteriors = [...posteriors.filter(({ posterior }) => posterior.id !== message.posterior.id), message].slice(-ROWS);
  const row = draw(message);
  if (!history) row.classList.add("fresh");
  $("rows").prepend(row);
  settle();
  if (message.event) overlay(message.posterior.detector);
}

function amend({ id, ...news }) {
  const message = posteriors.find(({ posterior }) => posterior.id === id);
  if (!message) return;
  Object.assign(message, news);
  const row = document.getElementById(`row-${id}`);
  const focused = document.activeElement === row;
  const fresh = draw(message);
  row?.replaceWith(fresh);
  if (focused) fresh.focus();
  settle();
  if ("event" in news) {
    overlay(message.posterior.detector);
    if (news.event && !pinned) select(id);
  }
  if (id === selected) detail();
}

function settle() {
  const ids = new Set(posteriors.map(({ posterior }) => `row-${posterior.id}`));
  [...$("rows").children].forEach((row) => ids.has(row.id) || row.remove());
  $("none").hidden = $("legend").hidden = posteriors.length > 0;
  $("legend").hidden = !posteriors.length;
  $("count").textContent = posteriors.length ? `last ${posteriors.length}` : "";
  if (!posteriors.some(({ posterior }) => posterior.id === selected)) {
    pinned = false;
    const best = posteriors.findLast(({ event }) => event) ?? posteriors.at(-1);
    select(best?.posterior.id ?? null);
  }
}

// Who else has seen it: the detectors of its network event.
const others = ({ posterior, network }) => network.members.map(({ detector }) => detector).filter((name) => name !== posterior.detector).join(", ");

function draw(message) {
  const { posterior, event, network, delivery } = message;
  const { chirp_mass, effective_distance } = posterior.parameters;
  const interval = (of, digits) => [fixed(of.median, digits), make("span", { class: "range" }, range(of.p5, of.p95, digits))];
  const { verdict, reasons } = posterior.quality;
  const chosen = posterior.id === selected;
  const cell = (kind, ...content) => make("td", { class: kind }, ...content);
  const row = make(
    "tr",
    { id: `row-${posterior.id}`, class: `${known(posterior.detector)} ${event ? "event" : ""}`, tabindex: chosen ? 0 : -1, "aria-selected": chosen },
    cell("time", clock(posterior.coalescence.gps, 3)),
    cell("det", posterior.detector),
    cell("num snr", fixed(posterior.snr, 1)),
    cell("num bayes", fixed(posterior.log_bayes, 1)),
    cell("num mass", ...interval(chirp_mass, 1)),
    cell("num dist", ...interval(effective_distance, 2)),
    cell("num ess", fixed(posterior.sampling.ess, 0)),
    cell("quality", make("span", { class: verdict }, verdict), reasons.length ? make("small", {}, " " + reasons.join(", ")) : undefined,
      network ? make("small", {}, ` with ${others(message)}, SNR ${fixed(network.snr, 1)}`) : undefined),
    cell("num lat", delivery ? ms(delivery.latency.total) : "\u2013"),
  );
  row.style.setProperty("--colour", `var(--${(known(posterior.detector) || "other").toLowerCase()}, var(--other))`);
  row.addEventListener("click", () => {
    choose(posterior.id);
    if (above.matches) $("detail").scrollIntoView({ behavior: "smooth", block: "nearest" });
  });
  return row;
}

function select(id) {
  selected = id;
  for (const row of $("rows").children) {
    const chosen = row.id === `row-${id}`;
    row.setAttribute("aria-selected", chosen);
    row.tabIndex = chosen ? 0 : -1;
  }
  detail();
}

function choose(id) {
  pinned = true;
  select(id);
}

$("rows").addEventListener("keydown", (event) => {
  const row = event.target.closest("tr");
  const to = {
    ArrowDown: row?.nextElementSibling,
    ArrowUp: row?.previousElementSibling,
    Home: $("rows").firstElementChild,
    End: $("rows").lastElementChild,
  }[event.key];
  if (!to) return;
  event.preventDefault();
  choose(to.id.slice(4));
  to.focus();
});

// ---- the chosen posterior -------------------------------------------------------------------------------------------

const PARAMETERS = [["chirp_mass", "Chirp mass", "Msun", 1], ["mass_1", "Mass 1", "Msun", 1], ["mass_2", "Mass 2", "Msun", 1], ["total_mass", "Total mass", "Msun", 1], ["mass_ratio", "Mass ratio", "", 2], ["effective_distance", "Eff. distance", "Gpc", 2]];
const STAGES = [["source", "s0"], ["conditioning_queue", "q"], ["conditioning", "s1"], ["batching", "s2"], ["inference_queue", "q"], ["inference", "s3"], ["summary", "s4"], ["publish", "s5"]];
const line = (label, ...content) => make("div", {}, make("dt", {}, label), make("dd", {}, ...content));

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

function intervals(posterior) {
  const rows = PARAMETERS.map(([name, label, unit, digits]) => {
    const { median, p5, p95 } = posterior.parameters[name];
    const text = fixed(median, digits);
    return make("div", {}, make("dt", {}, label), bar(limits(name, posterior.prior), p5, median, p95),
      make("dd", { class: "value" }, ...(unit ? value(text, unit) : [text])), make("dd", { class: "range" }, range(p5, p95, digits)));
  });
  const { mean, period, arc } = posterior.parameters.phase;
  rows.push(make("div", {}, make("dt", {}, "Phase"), bar([0, period], arc.start, mean, arc.end),
    make("dd", { class: "value" }, ...value(fixed(mean, 2), "rad")), make("dd", { class: "range" }, range(arc.start, arc.end, 2))));
  const time = posterior.parameters.coalescence_time;
  const offset = (gps) => (gps - posterior.window.gps) * 1000;
  const { low, high } = posterior.prior.coalescence_time;
  rows.push(make("div", {}, make("dt", {}, "Time in window"), bar([low * 1000, high * 1000], offset(time.p5), offset(time.median), offset(time.p95)),
    make("dd", { class: "value" }, ...value(fixed(offset(time.median), 1), "ms")), make("dd", { class: "range" }, range(offset(time.p5), offset(time.p95), 1))));
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

function detail() {
  const message = posteriors.find(({ posterior }) => posterior.id === selected);
  $("detail").hidden = !message;
  unzoom();
  unzoom = () => {};
  if (!message) return;
  const { posterior, event, network, delivery } = message;
  const { quality, sampling, psd, coalescence } = posterior;
  const date = utc(coalescence.gps).toISOString().slice(0, 10);
  const chart = make("div", { class: "zoom", role: "img", "aria-label": "Whitened window under the reconstructed waveform" });
  $("detail").className = known(posterior.detector);
  $("detail").replaceChildren(
    make("header", {},
      make("h2", {}, make("b", {}, posterior.detector), `SNR ${fixed(posterior.snr, 1)}`),
      make("p", {}, `${date} ${clock(coalescence.gps, 3)} UTC, GPS ${coalescence.gps.toFixed(4)}`),
      make("p", { class: quality.verdict }, [quality.verdict, quality.reasons.join(", ")].filter(Boolean).join(": ")),
      network ? make("p", {}, `With ${others(message)}: SNR ${fixed(network.snr, 1)}, chirp mass ${fixed(network.chirp_mass.median, 1)} (`,
        range(network.chirp_mass.p5, network.chirp_mass.p95, 1), ") Msun") : undefined),
    chart,
    make("h3", {}, "Parameters", make("span", {}, "median, 90 % interval, on the prior")),
    intervals(posterior),
    ...(delivery ? latency(delivery) : [make("h3", {}, "Not acknowledged by the broker yet")]),
    make("h3", {}, "How far to trust it"),
    make("dl", { class: "terms" },
      line("ln Bayes factor", `${fixed(posterior.log_bayes, 1)} ± ${fixed(sampling.log_bayes_error, 2)}`),
      line("Residual p", fixed(posterior.residual_p, 3)),
      line("Residual p at the peak", fixed(posterior.peak_residual_p, 3)),
      line("Like the training, p", fixed(posterior.latent_p, 3)),
      line("ESS", `${fixed(sampling.ess, 0)} of ${sampling.draws}`),
      line("Largest weight", fixed(sampling.largest_weight, 3)),
      line("PSD", `${psd.state}, ${psd.averages} avg.`),
      line("PSD drift", fixed(psd.drift, 2)),
      event ? line("Windows", String(event.windows)) : line("Event", "told by another"),
      line("Engine", posterior.engine),
      ...(delivery?.calibration?.injections ? [line("90 % coverage", `${fixed(delivery.calibration.coverage_90, 2)} \u00b1 ${fixed(delivery.calibration.coverage_90_error, 2)}`)] : [])),
    make("p", { class: "id" }, posterior.id),
  );
  unzoom = zoom(chart, message);
}

// ---- the stream -----------------------------------------------------------------------------------------------------

function reset() {
  history = true;
  posteriors = [];
  $("rows").replaceChildren();
  for (const { strip } of detectors.values()) strip.clear();
}

function connect() {
  const source = new EventSource("/events");
  const hear = (kind, act) => source.addEventListener(kind, ({ data }) => act(JSON.parse(data)));
  source.onopen = () => {
    reset();
    link("link-page", "ok", "live");
    document.body.classList.remove("lost");
  };
  source.onerror = () => {
    link("link-page", "bad", "reconnecting");
    link("link-broker", "wait", "unknown");
    document.body.classList.add("lost");
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 2000); // refused: the browser would not try again
  };
  hear("about", about);
  hear("broker", broker);
  hear("detector", detector);
  hear("calibration", calibration);
  hear("strain", strain);
  hear("posterior", posterior);
  hear("amend", amend);
  hear("history", () => {
    history = false;
    settle();
    if (!pinned) select(posteriors.findLast(({ event }) => event)?.posterior.id ?? selected);
  });
}

setInterval(() => detectors.forEach(age), 250);
connect();
