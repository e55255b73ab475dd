// One step of a call in full: its text as it was sent, with marks where secrets stood.

import { api } from "./api.js";
import { el, replace } from "./dom.js";
import { button, facts, problem, waiting } from "./parts.js";
import { plural } from "./words.js";

const MASK = /<redacted>|<masked>/g;

/** `text` as nodes, with each mask as a mark of its own. */
export function masked(text) {
  const parts = [];
  let at = 0;
  for (const found of text.matchAll(MASK)) {
    parts.push(text.slice(at, found.index), el("mark", { class: "redacted", title: "A secret stood here; the lab keeps none" }, "redacted"));
    at = found.index + found[0].length;
  }
  return [...parts, text.slice(at)];
}

/** Lines of a SIP message: start line, header fields and body told apart. */
function sipText(text) {
  const [head, ...rest] = text.replaceAll("\r\n", "\n").split("\n\n");
  const [start, ...fields] = head.split("\n");
  const body = rest.join("\n\n");
  return el("pre", { class: "message", tabindex: "0", "aria-label": "Text of the message" },
    el("span", { class: "start-line" }, masked(start)), "\n",
    fields.map((line) => {
      const [, name, value] = /^([^:\s]+)(:.*)$/.exec(line) ?? [null, "", line];
      return [name && el("span", { class: "field-name" }, name), masked(value), "\n"];
    }),
    body && ["\n", masked(body)]);
}

/** Panel of `step`; returns its element. */
export function messagePanel(callId, step, onClose) {
  const text = el("div", {}, step.has_text && waiting());
  const way = step.to ? `${step.from} → ${step.to}` : step.from;
  const element = el("div", { class: "form", tabindex: "-1", on: { keydown: (event) => event.key === "Escape" && onClose() } },
    el("div", { class: "head" }, el("h2", {}, step.label), button("Close", onClose, { class: "quiet" })),
    facts([
      ["Way", way],
      ["At", `${step.at_ms.toFixed(3)} ms`],
      ["Took", step.until_ms > step.at_ms ? `${(step.until_ms - step.at_ms).toFixed(2)} ms` : ""],
      ["Interface", step.interface],
      ["Transport", step.transport],
      ["Secured by", step.secured],
      ["Outcome", step.outcome],
      ["Fate", [step.retransmission && "sent again", step.unseen && "not seen to arrive"].filter(Boolean).join(", ")],
      ["Detail", step.kind === "sip" ? "" : step.detail],
    ]),
    text);

  async function load() {
    try {
      const message = await api.message(callId, step.ids[0]);
      replace(text,
        message.redactions > 0 && el("p", { class: "dim" }, `${plural(message.redactions, "secret")} redacted; a mark stands where each was.`),
        sipText(message.text));
    } catch (error) {
      replace(text, problem(error, load));
    }
  }
  if (step.has_text) load();
  return element;
}
