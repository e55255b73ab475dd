// A trace as a waterfall: who did what when, under whom. Branches open and close.

import { el, replace } from "./dom.js";
import { roving } from "./keys.js";
import { badge, button, empty, facts, traceLink } from "./parts.js";
import { note } from "./route.js";
import { ticks, timeScale } from "./time_scale.js";
import { duration, plural } from "./words.js";

/** The kind of a span, the name of its class. */
function kindOf(span) {
  if (span.name.startsWith("SIP ")) return "sip";
  if ("http.request.method" in span.attributes) return "http";
  if (span.name === "media.association") return "media";
  if (span.attributes["rpc.method"] || span.name.includes("/")) return "rpc";
  return "note";
}

/** Spans in the order of the drawing with depth and children: parents that are not here are roots. */
export function treeOf(spans) {
  const ids = new Set(spans.map((span) => span.span_id));
  const children = new Map();
  for (const span of spans) {
    const parent = span.parent_id && span.parent_id !== span.span_id && ids.has(span.parent_id) ? span.parent_id : "";
    children.set(parent, [...(children.get(parent) ?? []), span]);
  }
  const rows = [];
  const seen = new Set();
  const walk = (id, depth, above) => {
    for (const span of (children.get(id) ?? []).sort((a, b) => a.start_ms - b.start_ms)) {
      if (seen.has(span)) continue; // spans of a client and server may share an id
      seen.add(span);
      const below = children.has(span.span_id) && span.span_id !== id;
      rows.push({ span, depth, above, below });
      if (below) walk(span.span_id, depth + 1, [...above, span.span_id]);
    }
  };
  walk("", 0, []);
  return rows;
}

/** `trace` as /api/traces gives it. */
export function waterfall(trace, chosen = "") {
  if (!trace.spans.length) return el("div", {}, empty("No spans", "They arrive a second or two after they end. A trace that sampling left out has none."));
  const rows = treeOf(trace.spans);
  const closed = new Set();
  let fold = true;
  const axis = el("div", { class: "axis", "aria-hidden": "true" });
  const list = el("div", { class: "spans", role: "tree", "aria-label": "Spans; arrows move, left and right close and open a branch, Enter shows one" });
  const panel = el("aside", { class: "card panel", "aria-label": "Span" });
  const beside = el("div", { class: "beside alone" });
  const even = button("Even time scale", () => {
    fold = !fold;
    even.setAttribute("aria-pressed", String(!fold));
    draw();
  }, { class: "toggle", "aria-pressed": "false" });
  const facts_ = [plural(trace.spans.length, "span"), plural(new Set(trace.spans.map((span) => span.node)).size, "node"), duration(trace.duration_ms ?? Math.max(...trace.spans.map((span) => span.start_ms + span.duration_ms)))];
  replace(beside, el("div", { class: "card flush" }, axis, list));
  const element = el("div", { class: "form" },
    el("div", { class: "filters" }, el("span", { class: "dim" }, facts_.join(" · ")), even,
      trace.truncated && el("span", { class: "badge busy" }, "! shortened: the trace is longer than the page shows")),
    beside);

  function draw() {
    const scale = timeScale(trace.spans.flatMap((span) => [span.start_ms, span.start_ms + span.duration_ms]), fold);
    const focused = list.contains(document.activeElement) ? document.activeElement.dataset.at : null;
    drawAxis(scale);
    replace(list, rows.map((row, at) => (row.above.some((id) => closed.has(id)) ? null : drawRow(row, at, scale))));
    focus(list.querySelector(`[data-at="${focused}"]`) ?? list.querySelector(".chosen") ?? list.firstElementChild, { quiet: focused === null });
  }

  function drawAxis(scale) {
    const last = Math.max(...trace.spans.map((span) => span.start_ms + span.duration_ms));
    const inFold = (ms) => scale.folds.some(({ from, to }) => ms > from && ms < to);
    const busy = scale.folds.length ? last - scale.folds.reduce((sum, { from, to }) => sum + to - from, 0) : last;
    const marks = ticks(0, last, Math.max(1, Math.round((last / busy) * 6))).filter((ms) => !inFold(ms));
    let before = -1;
    replace(axis, el("span", {}), el("div", { class: "bars" },
      marks.map((ms) => {
        const x = scale.at(ms);
        if (x - before < 0.07 || x > 0.96) return null;
        before = x;
        const node = el("span", { class: "tick" }, duration(ms));
        node.style.left = `${x * 100}%`;
        return node;
      }),
      scale.folds.map(({ from, to }) => {
        const node = el("span", { class: "fold", title: `${duration(to - from)} in which nothing began or ended` }, "≈");
        node.style.left = `${scale.at(from) * 100}%`;
        node.style.width = `${(scale.at(to) - scale.at(from)) * 100}%`;
        return node;
      })));
  }

  function drawRow({ span, depth, below }, at, scale) {
    const bad = span.status === "ERROR";
    const isClosed = closed.has(span.span_id);
    const bar = el("span", { class: `bar ${kindOf(span)} ${bad ? "error" : ""}` });
    const [from, to] = [scale.at(span.start_ms), scale.at(span.start_ms + span.duration_ms)];
    bar.style.left = `${from * 100}%`;
    bar.style.width = `max(3px, ${(to - from) * 100}%)`;
    const took = el("span", { class: "took" }, duration(span.duration_ms));
    if (to < 0.9) took.style.left = `${to * 100}%`;
    else if (from > 0.12) took.style.right = `${(1 - from) * 100}%`;
    else bar.append(took); // no room on either side
    const name = el("span", { class: "span-name" }, el("span", { class: "twig", "aria-hidden": "true" }, below ? (isClosed ? "▸" : "▾") : "·"),
      bad && el("span", { class: "badge bad" }, "✕ "), el("span", { class: "span-title" }, span.name), el("span", { class: "dim" }, ` ${span.node}`));
    name.style.paddingLeft = `${6 + Math.min(depth, 12) * 13}px`;
    return el("div", {
      class: `span-row ${span.span_id === chosen ? "chosen" : ""}`, role: "treeitem", tabindex: "-1", "data-at": at, "aria-level": depth + 1, "aria-expanded": below ? String(!isClosed) : null, "aria-selected": String(span.span_id === chosen),
      "aria-label": `${span.name}, ${span.node}, from ${duration(span.start_ms)}, ${duration(span.duration_ms)}${bad ? ", failed" : ""}`,
      on: { click: (event) => (event.target.closest(".twig") && below ? turn(span) : open(span)) },
    }, name, el("span", { class: "bars" }, bar, took.parentElement ? null : took));
  }

  function turn(span, to = !closed.has(span.span_id)) {
    if (to) closed.add(span.span_id);
    else closed.delete(span.span_id);
    draw();
  }

  function open(span) {
    chosen = span.span_id;
    note({ span: chosen });
    beside.classList.remove("alone");
    replace(panel, spanPanel(span, shut));
    beside.append(panel);
    for (const node of list.children) {
      const is = rows[node.dataset.at].span === span;
      node.classList.toggle("chosen", is);
      node.setAttribute("aria-selected", String(is));
    }
  }

  function shut() {
    panel.remove();
    beside.classList.add("alone");
    note({ span: "" });
    focus(list.querySelector(".chosen"));
  }

  const at = (item) => rows[item.dataset.at];
  const focus = roving(list, {
    items: () => [...list.children],
    onOpen: (item) => open(at(item).span),
    keys: {
      ArrowLeft: (item, go) => {
        if (at(item).below && !closed.has(at(item).span.span_id)) turn(at(item).span, true);
        else go([...list.children].reverse().find((other) => at(other).span.span_id === at(item).above.at(-1)));
      },
      ArrowRight: (item) => at(item).below && turn(at(item).span, false),
      Escape: () => panel.isConnected && shut(),
    },
  });
  draw();
  const first = chosen && trace.spans.find((span) => span.span_id === chosen);
  if (first) open(first);
  return element;
}

function spanPanel(span, onClose) {
  const attributes = Object.entries(span.attributes).sort(([a], [b]) => a.localeCompare(b));
  return el("div", { class: "form", on: { keydown: (event) => event.key === "Escape" && onClose() } },
    el("div", { class: "head" }, el("h2", {}, span.name), button("Close", onClose, { class: "quiet" })),
    span.status === "ERROR" && badge("✕", span.message || "failed", "bad"),
    facts([["Node", span.node], ["Kind", span.kind.toLowerCase()], ["Begins", duration(span.start_ms)], ["Took", duration(span.duration_ms)]]),
    attributes.length > 0 && el("dl", { class: "metrics" }, attributes.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, Array.isArray(value) ? value.join(", ") : String(value))))),
    span.events.length > 0 && el("section", {}, el("h3", {}, "Events"), el("ul", { class: "plain" }, span.events.map((event) => el("li", {}, el("span", { class: "dim" }, `${duration(event.at_ms)} `), event.name)))),
    span.links.length > 0 && el("section", {}, el("h3", {}, "Linked traces"), el("ul", { class: "plain" }, span.links.map((one) => el("li", {}, traceLink(one.trace_id))))));
}
