// The legs of a call in words and numbers: who chose the key, who can read, what arrived.

import { el } from "./dom.js";
import { kindWords, legsOf } from "./media_drawing.js";
import { empty, table } from "./parts.js";
import { count, measure } from "./words.js";

function flow({ packets, lost, jitter_ms: jitter, auth_failures: forged, replays, drops }) {
  const causes = Object.entries({ "authentication failed": forged, replayed: replays, ...drops }).filter(([, n]) => n);
  return el("span", {},
    `${count(packets)} packets, ${lost === null ? "loss unknown" : `${count(lost)} lost`}${jitter === null || jitter === undefined ? "" : `, jitter ${measure(jitter, "ms")}`}`,
    causes.length > 0 && el("span", { class: "badge bad" }, ` · dropped: ${causes.map(([cause, n]) => `${cause} ${n}`).join(", ")}`));
}

const reader = ({ name, why }) => el("li", {}, el("strong", {}, name === "*" ? "anybody on this network" : name), why && el("span", { class: "dim" }, ` ${why}`));

/** One table a stream. */
export function mediaTables(streams) {
  if (!streams.length) return empty("No media", "None was agreed, or the gateways have not reported yet.");
  return el("div", { class: "form" }, streams.map((stream) => ({ ...stream, legs: legsOf(stream) })).map((stream) => el("section", {},
    el("h2", {}, `Stream ${stream.n}, ${stream.kind}`),
    el("div", { class: "card flush" }, table(`Legs of stream ${stream.n}`, [
      { head: "Leg", class: "num", cell: (leg) => stream.legs.indexOf(leg) + 1 },
      { head: "Between", class: "nowrap", cell: (leg) => [el("strong", {}, leg.from), " – ", el("strong", {}, leg.to), el("br"), el("span", { class: "dim" }, leg.side)] },
      { head: "Protection", class: "nowrap", cell: (leg) => [kindWords(leg), el("br"), el("span", { class: "dim" }, [leg.keying, leg.suite].filter(Boolean).join(" "))] },
      { head: "Key", class: "wide", cell: (leg) => leg.key },
      { head: "Who can read it", class: "wide", cell: (leg) => el("ul", { class: "plain" }, leg.readable_by.map(reader)) },
      { head: "Packets", class: "wide", cell: (leg) => !leg.unknown && [el("span", { class: "dim" }, `${leg.from} → ${leg.to}: `), flow(leg.a_to_b), el("br"), el("span", { class: "dim" }, `${leg.to} → ${leg.from}: `), flow(leg.b_to_a)] },
    ], stream.legs)))));
}
