// The list of posteriors: one row each, newest first; one is chosen, by the reader or, until then, the latest event.

import { $, clock, fixed, known, make, ms, range } from "./dom.js";

const above = matchMedia("(max-width: 1180px)"); // the detail stands over the list

const TOGETHER = 0.1; // s: events of detectors so close are of one signal, and the loudest is shown

let posteriors = []; // newest last
let selected = null; // id
let pinned = false; // the reader has chosen a row
let history = true; // what is being told happened before this page opened
let changed = () => {}; // hears of the chosen message
let found = () => {}; // hears of the events' posteriors of a detector

export function listen(onChange, onFound) {
  changed = onChange;
  found = onFound;
}

const at = (id) => posteriors.find(({ posterior }) => posterior.id === id);
const tell = (name) => found(name, posteriors.filter(({ posterior, event }) => event && posterior.detector === name).map(({ posterior }) => posterior));

export function posterior(message) {
  posteriors = [...posteriors.filter(({ posterior }) => posterior.id !== message.posterior.id), message];
  const row = draw(message);
  if (!history) row.classList.add("fresh");
  $("rows").prepend(row);
  settle();
  if (message.event) tell(message.posterior.detector);
}

export function amend({ id, gone, ...news }) {
  const message = at(id);
  if (!message) return;
  if (gone) {
    posteriors = posteriors.filter((one) => one !== message);
    settle();
    return;
  }
  Object.assign(message, news);
  const row = document.getElementById(`row-${id}`);
  const focused = document.activeElement === row;
  const fresh = draw(message);
  row?.replaceWith(fresh);
  if (focused) fresh.focus();
  settle();
  if ("event" in news) {
    tell(message.posterior.detector);
    if (news.event && !pinned) follow();
  }
  if (id === selected) changed(message);
}

function settle() {
  const ids = new Set(posteriors.map(({ posterior }) => `row-${posterior.id}`));
  const focused = document.activeElement?.closest("#rows tr");
  [...$("rows").children].forEach((row) => ids.has(row.id) || row.remove());
  const rows = [...$("rows").children];
  if (rows.length && !rows.some(({ tabIndex }) => tabIndex === 0)) rows.at(-1).tabIndex = 0; // what was chosen is gone
  if (focused && !focused.isConnected) rows.at(-1)?.focus({ preventScroll: true });
  $("none").hidden = posteriors.length > 0;
  $("legend").hidden = !posteriors.length;
  $("count").textContent = posteriors.length ? `last ${posteriors.length}` : "";
  if (!history && !pinned && !at(selected)) follow(); // while history is told, what is selected may still come
}

// Who else has seen it: the detectors of its network event.
export const others = ({ posterior, network }) => network.members.map(({ detector }) => detector).filter((name) => name !== posterior.detector).join(", ");

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
  row.addEventListener("click", () => choose(posterior.id));
  return row;
}

function select(id) {
  selected = id;
  for (const row of $("rows").children) {
    const chosen = row.id === `row-${id}`;
    row.setAttribute("aria-selected", chosen);
    row.tabIndex = chosen ? 0 : -1;
  }
  $("follow").hidden = !pinned;
  changed(at(id));
}

// Of a phone's reader, the detail is above what was touched.
const bring = () => above.matches && $("detail").scrollIntoView({ behavior: "smooth", block: "nearest" });

// The first of these that is listed; whether one is.
export function chooseOf(ids) {
  const id = ids.find(at);
  if (id) choose(id);
  return Boolean(id);
}

export function choose(id, quietly = false) {
  if (!at(id)) return;
  pinned = true;
  select(id);
  if (!quietly) bring();
}

// The latest event is chosen again, now and when there is another.
export function follow() {
  pinned = false;
  const events = posteriors.filter(({ event }) => event);
  const end = Math.max(...events.map(({ posterior }) => posterior.coalescence.gps));
  const loudest = events.filter(({ posterior }) => posterior.coalescence.gps > end - TOGETHER).sort((a, b) => b.posterior.snr - a.posterior.snr)[0];
  select((loudest ?? posteriors.at(-1))?.posterior.id ?? null);
}

export function step(by) {
  const row = document.getElementById(`row-${selected}`);
  if (!row) return go($("rows").lastElementChild); // what is read is older than all that is listed
  go(by > 0 ? row.nextElementSibling : row.previousElementSibling);
}

function go(row) {
  if (!row) return;
  choose(row.id.slice(4), true);
  row.focus();
}

export function reset() {
  history = true;
  posteriors = [];
  $("rows").replaceChildren();
}

// All that happened before is told.
export function caughtUp() {
  history = false;
  settle();
  if (!pinned) follow();
}

$("rows").addEventListener("keydown", (event) => {
  const rows = $("rows");
  const to = { Home: rows.firstElementChild, End: rows.lastElementChild }[event.key];
  if (!to) return;
  event.preventDefault();
  go(to);
});
$("follow").addEventListener("click", follow);
