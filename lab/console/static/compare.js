// Two calls beside each other: their facts, the ways of their media and their ladders, with the differences marked.

import { align, markedRows } from "./align.js";
import { api } from "./api.js";
import { el, onWidth, replace } from "./dom.js";
import { roving } from "./keys.js";
import { filterOf } from "./ladder.js";
import { drawLadder } from "./ladder_drawing.js";
import { live } from "./live.js";
import { drawPath, kindOf, legsOf, sentences, sentencesOf } from "./media_drawing.js";
import { messagePanel } from "./message_panel.js";
import { callBadge, choice, empty, problem, table, toggles, waiting } from "./parts.js";
import { picks } from "./picks.js";
import { go, link } from "./route.js";
import { callee, caller, clock, duration } from "./words.js";

const RECENT = 100;
const LANE = 74; // two ladders share the window
const SIDES = ["a", "b"];
const HIDDEN_AT_FIRST = ["Nnrf"];

export function compareView(route) {
  const marks = picks.all;
  const ids = { a: route.with.a ?? marks[0] ?? "", b: route.with.b ?? marks[1] ?? "" };
  const calls = { a: null, b: null };
  const choosing = el("div", { class: "filters card" }, waiting());
  const holder = el("div", { class: "form" });
  let hidden = new Set(HIDDEN_AT_FIRST);
  let ends = [];

  async function loadChoices() {
    try {
      const { calls: recent } = await api.calls({ limit: RECENT });
      const words = (call) => `${clock(call.began)} ${caller(call)} → ${callee(call)} ${call.security} ${call.result || call.state}`;
      const options = [["", "choose a call"], ...recent.map((call) => [call.call_id, words(call)])];
      for (const side of SIDES) {
        if (ids[side] && !recent.some((call) => call.call_id === ids[side])) options.push([ids[side], ids[side]]);
      }
      replace(choosing, SIDES.map((side) => el("label", {}, `Call ${side.toUpperCase()}`, choice(options, ids[side], (id) => go(link("compare", "", { ...ids, [side]: id }))))),
        el("button", { type: "button", class: "quiet", on: { click: () => go(link("compare", "", { a: ids.b, b: ids.a })) } }, "Swap"));
      if (!recent.length) replace(holder, empty("No calls to compare", el("a", { href: link("place") }, "Place two calls"), "for instance one in mode e2ae-sdes and one in e2e-kms."));
    } catch (error) {
      replace(choosing, problem(error, loadChoices));
    }
  }

  async function load() {
    if (!ids.a || !ids.b) {
      replace(holder, empty("Choose two calls", "Choose them above, or mark two in the list of calls (key c)."));
      return;
    }
    try {
      [calls.a, calls.b] = await Promise.all([api.call(ids.a), api.call(ids.b)]);
    } catch (error) {
      replace(holder, problem(error, load));
      return;
    }
    show();
  }

  function show() {
    for (const end of ends) end();
    ends = [];
    replace(holder, factsTable(), mediaPaths(), ladders());
  }

  function factsTable() {
    const path = (call) => call.media.streams.flatMap(sentencesOf).map(([, text]) => text).join(" ") || "no media";
    const rows = [
      ["State", (call) => callBadge(call.summary), (call) => call.summary.result || call.summary.state],
      ["Mode", (call) => call.summary.security],
      ["From", (call) => call.summary.from],
      ["To", (call) => call.summary.to],
      ["Answer", (call) => [call.summary.sip_status || "–", call.summary.reason].filter(Boolean).join(" ")],
      ["Suites", (call) => call.summary.suites.join(", ")],
      ["Media", path],
      ["Set-up", (call) => duration(call.summary.setup_ms), () => ""],
      ["SIP messages", (call) => call.ladder.steps.filter((step) => step.kind === "sip").length],
      ["Service calls", (call) => call.ladder.steps.filter((step) => step.kind === "rpc" || step.kind === "http").length],
      ["Call-ID", (call) => el("a", { class: "mono", href: link("call", call.summary.call_id) }, call.summary.call_id), () => ""],
    ].map(([name, cell, compared = cell]) => ({ name, a: cell(calls.a), b: cell(calls.b), differs: String(compared(calls.a)) !== String(compared(calls.b)) }));
    return el("div", { class: "card flush" }, table("The two calls", [
      { head: "", class: "nowrap", cell: (row) => el("span", { class: "dim" }, row.differs ? "≠ " : "", row.name) },
      { head: "Call A", class: "half", cell: (row) => row.a },
      { head: "Call B", class: "half", cell: (row) => row.b },
    ], rows, { rowClass: (row) => (row.differs ? "differs" : "") }));
  }

  function mediaPaths() {
    const kinds = (call) => call.media.streams.flatMap((stream) => legsOf(stream).map((leg) => `${kindOf(leg)} ${leg.keying} ${leg.suite}`));
    const [one, other] = [kinds(calls.a), kinds(calls.b)];
    const differing = new Set(one.map((_, at) => at).concat(other.map((_, at) => at)).filter((at) => one[at] !== other[at]));
    return el("section", { class: "form" }, el("h2", {}, "Ways of the media"), SIDES.map((side) => {
      const drawing = el("div", { class: "scroll-x", tabindex: "0", role: "region", "aria-label": `Media path of call ${side.toUpperCase()}` });
      const streams = calls[side].media.streams.filter((stream) => stream.legs.length);
      ends.push(onWidth(drawing, (width) => replace(drawing, streams.map((stream) => drawPath(stream, width, { differing })))));
      return el("div", { class: "card", "data-side": side }, el("h3", {}, title(side)), streams.length ? streams.map(sentences) : el("p", { class: "dim" }, "No media flowed."), drawing);
    }));
  }

  const title = (side) => {
    const { summary } = calls[side];
    return [`Call ${side.toUpperCase()}: ${caller(summary)} → ${callee(summary)} `, summary.security && el("span", { class: "chip" }, summary.security)];
  };

  function ladders() {
    const all = [...new Set(SIDES.flatMap((side) => calls[side].ladder.steps.map(filterOf)))].sort();
    const said = el("p", { class: "dim", role: "status" });
    const both = el("div", { class: "two" });
    const panel = el("aside", { class: "card panel", "aria-label": "Message" });
    const draw = () => {
      const shown = (side) => calls[side].ladder.steps.filter((step) => !hidden.has(filterOf(step)));
      const marked = markedRows(align(shown("a"), shown("b")));
      const { only_a: onlyA, only_b: onlyB, differing } = marked.counts;
      replace(said, onlyA + onlyB + differing ? `+ ${onlyA} only in A, + ${onlyB} only in B, ≠ ${differing} in both but different` : "Both flows have the same steps.");
      replace(both, SIDES.map((side) => ladderOf(side, marked[side], panel)));
    };
    draw();
    return el("section", { class: "form" }, el("h2", {}, "Ladders"),
      el("div", { class: "filters" }, el("span", { class: "dim" }, "Show"), toggles("Steps shown, by interface", all, all.filter((name) => !hidden.has(name)), (on) => {
        hidden = new Set(all.filter((name) => !on.has(name)));
        draw();
      })), said, both, panel);
  }

  function ladderOf(side, rows, panel) {
    const drawing = el("div", { class: "drawing" });
    const used = new Set(rows.flatMap(({ step }) => (step ? [step.from, step.to] : [])));
    const participants = calls[side].ladder.participants.filter(({ name }) => used.has(name));
    const open = (step) => {
      const shut = () => {
        panel.replaceChildren();
        focus(drawing.querySelector(`[data-id="${CSS.escape(step.ids[0])}"]`));
      };
      replace(panel, messagePanel(ids[side], step, shut));
      panel.scrollIntoView({ block: "nearest" });
    };
    const focus = roving(drawing, {
      items: () => [...drawing.querySelectorAll(".step")],
      onOpen: (node) => open(calls[side].ladder.steps.find((step) => step.ids.includes(node.dataset.id))),
    });
    ends.push(onWidth(drawing, (width) => {
      replace(drawing, drawLadder({ participants, rows, width, least: LANE, label: `Ladder of call ${side.toUpperCase()}`, onOpen: open }));
      const scroll = drawing.firstElementChild;
      scroll.addEventListener("scroll", () => follow(scroll));
      focus(drawing.querySelector(".step"), { quiet: true });
    }));
    return el("div", { class: "card flush", "data-side": side }, el("h3", { class: "side-title" }, title(side)), drawing);
  }

  /** Both ladders show the same rows. */
  function follow(scrolled) {
    for (const other of holder.querySelectorAll(".two .ladder-scroll")) {
      if (other !== scrolled && Math.abs(other.scrollTop - scrolled.scrollTop) > 1) other.scrollTop = scrolled.scrollTop;
    }
  }

  let timer = 0;
  const stop = [
    live.on("resumed", load),
    live.on("call", (summary) => {
      if (!SIDES.some((side) => ids[side] === summary.call_id)) return;
      clearTimeout(timer);
      timer = setTimeout(load, 1000);
    }),
  ];
  loadChoices();
  load();
  return {
    title: "Compare two calls",
    element: el("section", { class: "compare" }, el("h1", {}, "Compare two calls"), choosing, holder),
    update: (next) => next.with.a === ids.a && next.with.b === ids.b,
    close() {
      clearTimeout(timer);
      for (const end of [...stop, ...ends]) end();
    },
  };
}
