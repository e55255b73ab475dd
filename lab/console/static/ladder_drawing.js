// A call flow as a drawing: a lane a participant, a row a step. The same for one call and for two beside each other.

import { el, fitted, svg, visible, widthOf } from "./dom.js";
import { band } from "./media_drawing.js";
import { duration } from "./words.js";

export const ROW = 28;
const GUTTER = 122;
const LANE = 108; // at least, unless one asks for less
const HEAD = 44;
const GAP_MS = 300; // a pause of this length gets a row of its own
const PROTECTION = { SRTP: "srtp", RTP: "rtp", opaque: "opaque" };
const KIND_WORDS = { pcscf: "P-CSCF", imsagw: "IMS-AGW", cscf: "I/S-CSCF", ue: "UE", hss: "HSS", nrf: "NRF", kms: "KMS", bsf: "BSF", peer: "foreign" };
const CLASSES = { sip: "sip", rpc: "rpc", http: "http", decision: "note", mikey: "note mikey", media: "media" };

/** Whether a step says that something went wrong. */
export function isBad(step) {
  if (step.kind === "rpc") return step.outcome === "ERROR";
  if (step.kind === "sip" || step.kind === "http") return /^[4-6]/.test(step.outcome) && !["401", "407"].includes(step.outcome);
  return step.outcome === "refused";
}

/** Rows of `steps`: {step}, with {pause} between those that are far apart. */
export function rowsOf(steps) {
  const rows = [];
  let before = null;
  for (const step of steps) {
    const pause = before === null ? 0 : step.at_ms - before;
    if (pause > GAP_MS) rows.push({ pause });
    rows.push({ step });
    before = step.at_ms;
  }
  return rows;
}

/** What a step says, in one line. */
export function wordsOf(step) {
  const way = step.to ? `${step.from} to ${step.to}` : step.from;
  const fate = [step.retransmission && "sent again", step.unseen && "not seen to arrive", isBad(step) && "failed"].filter(Boolean);
  return [`${step.at_ms.toFixed(1)} ms`, way, [step.label, step.kind === "sip" || step.kind === "media" ? "" : step.detail].filter(Boolean).join(": "),
    [step.interface, step.transport].filter(Boolean).join(" over "), ...fate].filter(Boolean).join(", ");
}

/** Head (sticky) and body of a ladder; `rows` as of rowsOf, each may have `mark`: "only" or "differs". */
export function drawLadder({ participants, rows, width, label, chosen = null, least = LANE, onOpen }) {
  const lane = Math.max(least, (width - GUTTER - 6) / Math.max(1, participants.length));
  const full = Math.floor(GUTTER + lane * participants.length + 4);
  const places = new Map(participants.map(({ name }, at) => [name, GUTTER + lane * (at + 0.5)]));
  const height = rows.length * ROW + 10;
  const head = svg("svg", { class: "ladder-head", width: full, height: HEAD, viewBox: `0 0 ${full} ${HEAD}`, "aria-hidden": "true" },
    svg("text", { class: "time", x: 54, y: 28, "text-anchor": "end" }, "ms"),
    participants.map(({ name, kind, known }) => svg("g", {},
      svg("rect", { class: `head ${known === false ? "foreign" : ""}`, x: places.get(name) - lane / 2 + 4, y: 4, width: lane - 8, height: HEAD - 8, rx: 5 }),
      svg("text", { class: "name", x: places.get(name), y: 20, "text-anchor": "middle" }, fitted(name, lane - 14)),
      svg("text", { class: "kind", x: places.get(name), y: 34, "text-anchor": "middle" }, KIND_WORDS[kind] ?? kind))));
  const geometry = { places, lane, full };
  const body = svg("svg", { class: "ladder-body", width: full, height, viewBox: `0 0 ${full} ${height}`, role: "listbox", "aria-label": label },
    participants.map(({ name }) => svg("line", { class: "lane", x1: places.get(name), x2: places.get(name), y1: 0, y2: height })),
    rows.map((row, at) => drawRow(row, at * ROW, geometry, chosen, onOpen)));
  return el("div", { class: "ladder-scroll" }, head, body);
}

function drawRow(row, top, geometry, chosen, onOpen) {
  const { full } = geometry;
  if (row.pause) {
    return svg("g", { class: "pause", "aria-hidden": "true" },
      svg("line", { x1: GUTTER, x2: full - 4, y1: top + ROW / 2, y2: top + ROW / 2 }),
      svg("text", { x: 54, y: top + ROW / 2 + 4, "text-anchor": "end" }, `+${duration(row.pause)}`));
  }
  if (!row.step) return svg("rect", { class: "absent", x: 2, y: top + 2, width: full - 4, height: ROW - 4, rx: 4 });
  const { step, mark } = row;
  const classes = ["step", CLASSES[step.kind] ?? "sip", isBad(step) && "error", step.retransmission && "again", mark && `marked ${mark}`, step.ids.includes(chosen) && "chosen"];
  const draw = { decision: drawNote, mikey: drawNote, media: drawMedia }[step.kind] ?? drawArrow;
  const told = { only: "only in this call, ", differs: "differs, " }[mark] ?? "";
  return svg(
    "g",
    { class: classes.filter(Boolean).join(" "), role: "option", tabindex: -1, "data-id": step.ids[0], "aria-selected": String(step.ids.includes(chosen)), "aria-label": told + wordsOf(step), on: { click: () => onOpen(step) } },
    svg("rect", { class: "hit", x: 2, y: top + 1, width: full - 4, height: ROW - 2, rx: 4 }),
    mark && svg("text", { class: "mark-sign", x: 8, y: top + 19 }, mark === "only" ? "+" : "≠"),
    svg("text", { class: "time", x: 54, y: top + 19, "text-anchor": "end" }, stamp(step.at_ms)),
    svg("text", { class: "point", x: 62, y: top + 19 }, fitted(step.interface || "", 58)),
    draw(step, top, geometry),
  );
}

const stamp = (ms) => (ms < 10_000 ? ms.toFixed(1) : `${(ms / 1000).toFixed(2)} s`);

/** Middle of a text of `width` that is to stand around `x` and stay in the drawing. */
const inside = (x, width, full) => Math.max(GUTTER + width / 2, Math.min(full - 6 - width / 2, x));

function drawArrow(step, top, { places, full }) {
  const y = top + 21;
  const from = places.get(step.from) ?? GUTTER;
  const to = places.get(step.to) ?? from;
  const fate = `${isBad(step) ? "✕ " : ""}${step.label}${step.retransmission ? " (again)" : ""}`;
  if (from === to) {
    return [svg("circle", { class: "dot", cx: from, cy: y - 6, r: 4 }), svg("text", { class: "label", x: from + 10, y: top + 19 }, fitted(fate, full - from - 16))];
  }
  const way = to > from ? 1 : -1;
  const tip = step.unseen ? to - 24 * way : to;
  const text = fitted(fate, full - GUTTER - 12);
  const x = inside((from + to) / 2, widthOf(text), full);
  return [
    svg("line", { class: "shaft", x1: from, x2: tip, y1: y, y2: y }),
    step.unseen ? svg("path", { class: "lost", d: `M${tip - 5} ${y - 5}l10 10m0 -10l-10 10` }) : svg("path", { class: "tip", d: `M${to} ${y}l${-8 * way} -4v8z` }),
    svg("text", { class: "label", x, y: top + 15, "text-anchor": "middle" }, text),
  ];
}

function drawNote(step, top, { places, full }) {
  const words = [step.label, step.detail].filter(Boolean).join(": ");
  const text = fitted(words, Math.min(430, full - GUTTER - 30));
  const width = widthOf(text) + 18;
  const x = inside(places.get(step.from) ?? GUTTER, width, full);
  return [
    svg("rect", { class: "box", x: x - width / 2, y: top + 3, width, height: ROW - 6, rx: 5 }),
    svg("text", { class: "label", x, y: top + 18, "text-anchor": "middle" }, text),
  ];
}

function drawMedia(step, top, { places, lane, full }) {
  let [from, to] = [places.get(step.from) ?? GUTTER, places.get(step.to) ?? GUTTER].sort((a, b) => a - b);
  if (from === to) [from, to] = [from - lane / 2 + 6, to + lane / 2 - 6];
  const kind = PROTECTION[step.protection] ?? "rtp";
  const text = fitted(visible(step.label), full - GUTTER - 20);
  const width = widthOf(text) + 12;
  const x = inside((from + to) / 2, width, full);
  return [
    band(kind, { x: from, y: top + 5, width: to - from, height: ROW - 10 }),
    svg("rect", { class: `plate ${kind}`, x: x - width / 2, y: top + 6, width, height: ROW - 12, rx: 3 }),
    svg("text", { class: `label ${kind}`, x, y: top + 18, "text-anchor": "middle" }, text),
  ];
}
