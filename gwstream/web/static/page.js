// The live page: listens to /events and hands what it hears to the parts. Everything is text or a canvas; nothing is
// ever parsed as HTML.

import { detail } from "./detail.js";
import * as detectors from "./detectors.js";
import { $ } from "./dom.js";
import * as glance from "./glance.js";
import * as posteriors from "./posteriors.js";

posteriors.listen(detail, detectors.overlay);

const SILENT = 40; // s: the daemon says something at least each 15 s, if only that it is there

let source, heard;

function lost() {
  glance.link("link-page", "bad", "reconnecting");
  glance.link("link-broker", "wait", "unknown");
  document.body.classList.add("lost");
}

// A connection that was cut without a word, as by a machine that sleeps, would look like one where nothing happens.
setInterval(() => {
  if (source.readyState === EventSource.CLOSED || performance.now() - heard < SILENT * 1000) return;
  source.close();
  lost();
  connect();
}, 1000);

function connect() {
  source = new EventSource("/events");
  heard = performance.now();
  const mine = source;
  const hear = (kind, act) => source.addEventListener(kind, ({ data }) => {
    heard = performance.now();
    act(JSON.parse(data));
  });
  let live = false; // while history is told: the trends have it already
  source.onopen = () => {
    live = false;
    posteriors.reset();
    detectors.clear();
    glance.clear();
    glance.link("link-page", "ok", "live");
    document.body.classList.remove("lost");
  };
  source.onerror = () => {
    lost();
    if (mine.readyState === EventSource.CLOSED) setTimeout(connect, 2000); // refused: the browser would not try again
  };
  hear("about", (facts) => {
    glance.about(facts);
    (facts.detectors ?? []).forEach(detectors.view);
  });
  hear("broker", glance.broker);
  hear("health", glance.health);
  hear("detector", detectors.detector);
  hear("trend", detectors.trend);
  hear("spectrum", detectors.spectrum);
  hear("calibration", (message) => {
    detectors.calibration(message);
    glance.calibration(message);
  });
  hear("strain", detectors.strain);
  hear("posterior", (message) => {
    posteriors.posterior(message);
    if (live) detectors.view(message.posterior.detector).trends.posterior(message.posterior);
  });
  hear("amend", posteriors.amend);
  hear("networks", (message) => glance.networks(message, posteriors.chooseOf));
  hear("here", () => {});
  hear("history", () => {
    live = true;
    posteriors.caughtUp();
    detectors.caughtUp();
  });
}

// ---- keys -----------------------------------------------------------------------------------------------------------

let frozen = false;
function freeze() {
  frozen = !frozen;
  detectors.freeze(frozen);
  $("freeze").setAttribute("aria-pressed", frozen);
}

const help = () => ($("help").open ? $("help").close() : $("help").showModal());
const KEYS = { j: () => posteriors.step(1), k: () => posteriors.step(-1), l: posteriors.follow, f: freeze, "?": help };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "?") return help();
  if ($("help").open) return;
  const act = /^[1-9]$/.test(event.key) ? () => detectors.toggleNumber(Number(event.key) - 1) : KEYS[event.key];
  if (act) act();
  else if (event.target.closest?.("#rows") && ["ArrowDown", "ArrowUp"].includes(event.key)) posteriors.step(event.key === "ArrowDown" ? 1 : -1);
  else return;
  event.preventDefault();
});
$("freeze").addEventListener("click", freeze);
$("help-open").addEventListener("click", help);
$("help-close").addEventListener("click", help);

connect();
