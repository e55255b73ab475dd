// The way of the media from UE to UE. Colour never stands alone: each kind has a pattern, a lock and a word.

import { el, fitted, svg } from "./dom.js";
import { lab } from "./lab.js";
import { listed } from "./words.js";

const BOX = 132;
const LEG = 168; // at least
const TOP = 8;
const HEIGHT = 96;
const BAND_TOP = TOP + 46;
const BAND = 24;

const NOBODY = "?";

/** Media ends at a UE, or at a peer that is no node of the lab; anywhere else a report is missing. */
const isEnd = (name) => (lab.node(name)?.kind ?? "ue") === "ue";
const unknownLeg = (from, to) => ({ from, to, unknown: true, keying: "", suite: "", key: "nothing was reported of this leg", readable_by: [] });

/** Legs of a stream from UE to UE, with those that nobody reported: what is not known must not look protected. */
export function legsOf({ legs }) {
  if (!legs.length) return [];
  const whole = isEnd(legs[0].from) ? [] : [unknownLeg(NOBODY, legs[0].from)];
  for (const leg of legs) {
    const before = whole.at(-1);
    if (before && before.to !== leg.from) whole.push(unknownLeg(before.to, leg.from));
    whole.push(leg);
  }
  if (!isEnd(whole.at(-1).to)) whole.push(unknownLeg(whole.at(-1).to, NOBODY));
  return whole;
}

/** Kind of a leg, the name of its class: srtp (a key on this leg), opaque (end to end), rtp (in the clear) or unknown. */
export function kindOf(leg) {
  if (leg.unknown) return "unknown";
  if (leg.clear || leg.protection === "RTP") return "rtp";
  return leg.scope === "e2e" || leg.protection === "opaque" ? "opaque" : "srtp";
}

const KIND_WORDS = { srtp: "SRTP on this leg", opaque: "SRTP end to end", rtp: "RTP, in the clear", unknown: "not known" };

export const kindWords = (leg) => KIND_WORDS[kindOf(leg)];

/** Patterns that fills of this page refer to; made once, in a drawing of no size. */
function ensurePatterns() {
  if (document.getElementById("hatch-rtp")) return;
  document.body.append(
    svg("svg", { width: 0, height: 0, "aria-hidden": "true", class: "patterns" }, svg("defs", {},
      svg("pattern", { id: "hatch-rtp", width: 8, height: 8, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
        svg("rect", { width: 8, height: 8, class: "ground rtp" }), svg("rect", { width: 3, height: 8, class: "mark rtp" })),
      svg("pattern", { id: "dots-opaque", width: 8, height: 8, patternUnits: "userSpaceOnUse" },
        svg("rect", { width: 8, height: 8, class: "ground opaque" }), svg("circle", { cx: 4, cy: 4, r: 1.3, class: "mark opaque" })))),
  );
}

/** A band of media, as path and ladder show it. */
export function band(kind, attributes) {
  ensurePatterns();
  return svg("rect", { class: `band ${kind}`, ...attributes });
}

/** A small piece of a band, for legends. */
export const mediaSample = (kind) =>
  svg("svg", { width: 44, height: 16, class: "sample", "aria-hidden": "true" }, band(kind, { x: 1, y: 2, width: 42, height: 12 }));

function lock(x, y, open) {
  return svg("g", { class: "lock", transform: `translate(${x} ${y})` },
    svg("circle", { class: "plate", cx: 0, cy: 0.5, r: 11 }),
    svg("rect", { class: "body", x: -5, y: -1, width: 10, height: 7, rx: 1.5 }),
    svg("path", { class: "bow", d: open ? "M-3-1v-2.5a3 3 0 0 1 5.6-1.5" : "M-3-1v-2a3 3 0 0 1 6 0v2" }));
}

const eye = (x, y) =>
  svg("g", { class: "eye", transform: `translate(${x} ${y})` }, svg("path", { d: "M-7 0q7-7.5 14 0q-7 7.5-14 0z" }), svg("circle", { cx: 0, cy: 0, r: 2 }));

const readersOf = (leg) => leg.readable_by.map(({ name }) => name);

/** Nodes along the path of a stream, each with whether it can read what passes: [{name, reads, end}]. */
export function stationsOf(stream) {
  const legs = legsOf(stream);
  if (!legs.length) return [];
  const names = [legs[0].from, ...legs.map((leg) => leg.to)];
  return names.map((name, at) => {
    const around = [legs[at - 1], legs[at]].filter(Boolean);
    const unsure = around.some((leg) => leg.unknown);
    return { name, unsure, end: at === 0 || at === names.length - 1, reads: around.some((leg) => readersOf(leg).includes(name)) };
  });
}

/** What the drawing says, as sentences: [tone, text]. */
export function sentencesOf(stream) {
  const stations = stationsOf(stream);
  const between = stations.filter((station) => !station.end);
  const legs = legsOf(stream);
  const clear = legs.filter((leg) => kindOf(leg) === "rtp");
  const unknown = legs.filter((leg) => leg.unknown);
  const reading = between.filter((station) => station.reads).map(({ name }) => name);
  const onPath = new Set(stations.map(({ name }) => name));
  const elsewhere = new Map(); // why: names, of those who are not on the path
  for (const { name, why } of stream.legs.flatMap((leg) => leg.readable_by)) {
    if (name !== "*" && !onPath.has(name)) elsewhere.set(why, new Set(elsewhere.get(why)).add(name));
  }
  const said = [];
  if (clear.length) said.push(["busy", `In the clear ${listed(clear.map((leg) => `between ${leg.from} and ${leg.to}`))}.`]);
  if (clear.length === legs.length) said[0] = ["bad", "In the clear all the way."];
  if (unknown.length) said.push(["bad", `Not known ${listed(unknown.map((leg) => (leg.to === NOBODY ? `beyond ${leg.from}` : leg.from === NOBODY ? `before ${leg.to}` : `between ${leg.from} and ${leg.to}`)))}: nobody reported it.`]);
  if (!clear.length && !reading.length && !unknown.length) said.push(["good", `Protected from ${stations[0]?.name} to ${stations.at(-1)?.name} without a break.`]);
  if (reading.length) said.push(["busy", `${listed(reading)} can read it.`]);
  else if (between.length && !clear.length && !unknown.length) said.push(["good", `${listed(between.map(({ name }) => name))} relay it unopened.`]);
  for (const [why, names] of elsewhere) said.push(["busy", `${listed([...names])} could read it too (${why}).`]);
  return said;
}

/** The path of a stream, `width` pixels wide or wider where that is too narrow. */
export function drawPath(stream, width, { differing = new Set() } = {}) {
  const stations = stationsOf(stream);
  const legs = legsOf(stream);
  const legWidth = Math.max(LEG, (width - 2 - BOX * stations.length) / Math.max(1, stations.length - 1));
  const full = BOX * stations.length + legWidth * (stations.length - 1) + 2;
  const left = (at) => 1 + at * (BOX + legWidth);
  const label = sentencesOf(stream).map(([, text]) => text).join(" ");
  const title = `Media path of stream ${stream.n}: ${label}`;
  return svg(
    "svg",
    { width: full, height: TOP + HEIGHT + 8, viewBox: `0 0 ${full} ${TOP + HEIGHT + 8}`, class: "path", role: "img", "aria-label": title },
    stations.map((station, at) => svg("rect", { class: `station ${station.end ? "end" : station.reads ? "reads" : station.unsure ? "unsure" : "sealed"}`, x: left(at), y: TOP, width: BOX, height: HEIGHT, rx: 8 })),
    legs.map((leg, at) => drawLeg(leg, left(at) + BOX, legWidth, at, differing.has(at))),
    stations.map((station, at) => drawStation(station, left(at), legs[at - 1], legs[at])),
  );
}

function drawLeg(leg, x, width, at, differs) {
  const kind = kindOf(leg);
  const middle = x + width / 2;
  const readers = readersOf(leg);
  const below = leg.unknown ? "nothing reported" : readers.includes("*") ? "anybody on this network can listen" : leg.side === "core" ? "core" : "access";
  return svg("g", { class: `leg ${kind} ${differs ? "differs" : ""}` },
    svg("title", {}, `${leg.from} to ${leg.to}: ${leg.key}`),
    band(kind, { x: x - 1, y: BAND_TOP, width: width + 2, height: BAND }),
    svg("text", { class: "what", x: middle, y: TOP + 20, "text-anchor": "middle" }, `${differs ? "≠ " : ""}${KIND_WORDS[kind]}`),
    svg("text", { class: "by", x: middle, y: TOP + 37, "text-anchor": "middle" }, fitted([leg.keying, leg.suite].filter(Boolean).join(" "), width - 8, "11px " + getComputedStyle(document.body).fontFamily)),
    !leg.unknown && lock(middle, BAND_TOP + BAND / 2, kind === "rtp"),
    svg("text", { class: "who", x: middle, y: BAND_TOP + BAND + 17, "text-anchor": "middle" }, fitted(`${at + 1} · ${below}`, width - 4)));
}

function drawStation(station, x, before, after) {
  const middle = x + BOX / 2;
  const passes = !station.end && !station.reads && !station.unsure;
  const nobody = station.name === NOBODY;
  const y = BAND_TOP + BAND / 2;
  return svg("g", {},
    passes && band(kindOf(before), { x, y: BAND_TOP, width: BOX, height: BAND, class: `band through ${kindOf(before)}` }),
    svg("text", { class: "name", x: middle, y: TOP + 20, "text-anchor": "middle" }, fitted(station.name, BOX - 12)),
    svg("text", { class: "by", x: middle, y: TOP + 37, "text-anchor": "middle" }, nobody ? "not known" : station.end ? "user equipment" : station.reads ? "opens and relays" : "relays"),
    !passes && (station.reads || station.end) && !nobody && eye(middle, y),
    svg("text", { class: "who", x: middle, y: BAND_TOP + BAND + 17, "text-anchor": "middle" }, nobody ? "" : station.end ? "end" : station.reads ? "can read" : station.unsure ? "not known" : "cannot read"));
}

/** Sentences of a stream, each with the tone of what it says. */
export const sentences = (stream) =>
  el("p", { class: "sentences" }, sentencesOf(stream).map(([tone, text]) => el("span", { class: `badge ${tone}` }, el("span", { class: "sign", "aria-hidden": "true" }, tone === "good" ? "✓" : "!"), text)));
