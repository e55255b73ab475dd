// One call: how it stands, the way of its media, its ladder, trace, statistics and decisions; live while it goes on.

import { api } from "./api.js";
import { announce, el, onWidth, replace } from "./dom.js";
import { ladderView } from "./ladder.js";
import { live } from "./live.js";
import { drawPath, sentences } from "./media_drawing.js";
import { mediaTables } from "./media_table.js";
import { messagePanel } from "./message_panel.js";
import { button, callBadge, copyable, empty, facts, problem, table, tabList, traceLink, waiting } from "./parts.js";
import { picks } from "./picks.js";
import { go, link, note, parse } from "./route.js";
import { statisticsView } from "./statistics.js";
import { waterfall } from "./waterfall.js";
import { callee, caller, clock, duration } from "./words.js";

const AGAIN_MS = 400; // changes that come together are fetched together
const AFTER_END_MS = 2500; // the last spans of a call arrive after its end
const TABS = [
  { name: "ladder", title: "Ladder" },
  { name: "media", title: "Media legs" },
  { name: "trace", title: "Trace" },
  { name: "statistics", title: "Statistics" },
  { name: "decisions", title: "Decisions" },
];

export function callView(route) {
  const id = route.id;
  let call = null;
  let tab = route.with.tab ?? "ladder";
  let step = route.with.step || null;
  let timer = 0;
  let wide = 0;
  let shownState = "";
  const head = el("div", { class: "head" }, el("h1", {}, "Call"));
  const about = el("div", { class: "card" }, waiting());
  const path = el("div", { class: "scroll-x path-holder", tabindex: "0", role: "region", "aria-label": "Media path" });
  const said = el("div", {});
  const media = el("div", { class: "card" }, said, path);
  const failure = el("div", {});
  const ladder = ladderView(id, openStep);
  const statistics = statisticsView();
  const panel = el("aside", { class: "card panel", "aria-label": "Message" });
  const beside = el("div", { class: "beside alone" }, ladder.element);
  let trace = null;
  let holder = null;
  const tabs = tabList(TABS, tab, (name, into) => {
    tab = name;
    holder = into;
    note({ tab: name === "ladder" ? "" : name });
    showTab();
  }, "What is shown of the call");
  const element = el("section", { class: "call" }, head, failure, about, media, el("div", { class: "tabs-holder" }, tabs.list, tabs.panel));

  function showTab() {
    if (!holder || !call) return;
    if (tab === "ladder") replace(holder, beside);
    if (tab === "media") replace(holder, mediaTables(call.media.streams));
    if (tab === "statistics") replace(holder, statistics.element);
    if (tab === "decisions") replace(holder, decisions());
    if (tab === "trace") showTrace();
  }

  /** Draws the trace, unless it still has `drawn` spans. */
  async function showTrace(drawn = 0) {
    if (!trace) {
      if (!holder.firstChild) replace(holder, waiting());
      try {
        trace = await api.traceOfCall(id);
      } catch (error) {
        if (tab === "trace") replace(holder, problem(error, () => showTrace()));
        return;
      }
    }
    if (tab === "trace" && trace.spans.length !== drawn) replace(holder, waterfall(trace, parse(location.hash).with.span), otherTraces());
  }

  const otherTraces = () => call.links.length > 0 && el("section", { class: "card" }, el("h2", {}, "Traces that belong to this call"),
    el("ul", { class: "plain" }, call.links.map((one) => el("li", {}, traceLink(one.trace_id), ` ${one.what}`))));

  function decisions() {
    if (!call.decisions.length) return empty("No decisions", "Nodes note here how they came to a key, or why they refused one.");
    return el("div", { class: "card flush" }, table("Key management decisions", [
      { head: "At", class: "num nowrap", cell: (one) => `${(one.at - call.began_ladder).toFixed(1)} ms` },
      { head: "Node", cell: (one) => el("strong", {}, one.node) },
      { head: "What", cell: (one) => one.what },
      { head: "Outcome", cell: (one) => one.outcome },
      { head: "Suite", class: "mono", cell: (one) => one.suite },
      { head: "Reason", cell: (one) => one.reason },
    ], call.decisions, { rowClass: (one) => (one.outcome === "refused" ? "bad" : "") }));
  }

  function openStep(chosen) {
    step = chosen.ids[0];
    note({ step });
    beside.classList.remove("alone");
    replace(panel, messagePanel(id, chosen, shutStep));
    beside.append(panel);
    announce(`${chosen.label} opened`);
  }

  function shutStep() {
    step = null;
    note({ step: "" });
    panel.remove();
    beside.classList.add("alone");
    ladder.focusChosen();
  }

  function showHead() {
    const { summary } = call;
    const hangUp = call.live && button("Hang up", async () => {
      hangUp.disabled = true;
      try {
        const { sip_status: status } = await api.hangUp(id);
        announce(`Hung up, ${status}`);
      } catch (error) {
        hangUp.disabled = false;
        replace(failure, problem(error));
      }
    }, { class: "danger" });
    const marked = picks.has(id);
    const focused = head.contains(document.activeElement) ? document.activeElement.dataset.name : null;
    replace(head, el("h1", {}, caller(summary), el("span", { class: "dim" }, " → "), callee(summary)), callBadge(summary), summary.security && el("span", { class: "chip" }, summary.security),
      el("span", { class: "actions" },
        button(marked ? "◉ Marked" : "○ Mark to compare", () => {
          picks.toggle(id);
          const all = picks.all;
          if (all.length === 2) go(link("compare", "", { a: all[0], b: all[1] }));
          else showHead();
        }, { "aria-pressed": String(marked), "data-name": "mark" }),
        hangUp));
    if (focused) head.querySelector(`[data-name="${focused}"]`)?.focus();
    replace(about, facts([
      ["From", summary.from],
      ["To", summary.to],
      ["Began", clock(summary.began)],
      ["Set-up", duration(summary.setup_ms)],
      ["Talk time", summary.duration_ms ? duration(summary.duration_ms) : ""],
      ["Answer", summary.sip_status ? `${summary.sip_status}${summary.reason ? ` ${summary.reason}` : ""}` : ""],
      ["Suites", summary.suites.join(", ")],
      ["Call-ID", copyable(summary.call_id, "Call-ID")],
      ["Trace", summary.trace_id && copyable(summary.trace_id, "trace id")],
    ]));
    if (shownState && shownState !== summary.state) announce(`The call is ${summary.state === "ended" ? `over: ${summary.result}` : "established"}`);
    shownState = summary.state;
  }

  function showMedia() {
    const streams = call.media.streams.filter((stream) => stream.legs.length);
    replace(said, streams.length ? streams.map(sentences) : el("p", { class: "dim" }, call.live ? "No media yet." : "No media flowed in this call."));
    path.hidden = !streams.length;
    if (wide) replace(path, streams.map((stream) => drawPath(stream, wide)));
  }

  async function load() {
    clearTimeout(timer);
    try {
      call = await api.call(id);
    } catch (error) {
      replace(about, problem(error, load));
      return;
    }
    replace(failure);
    const first = !ladder.shown;
    showHead();
    showMedia();
    ladder.show(call.ladder);
    statistics.show(call.samples, call.began_ladder);
    const before = trace;
    trace = null; // it may have grown
    if (tab === "trace" && before) showTrace(before.spans.length);
    if (first || tab === "media" || tab === "decisions") showTab();
    if (first && step !== null) {
      const chosen = call.ladder.steps.find((one) => one.ids.includes(step));
      if (chosen) {
        ladder.choose(chosen);
        openStep(chosen);
        ladder.reveal();
      }
    }
    ladder.shown = true;
  }

  const stop = [
    live.on("call", (summary) => {
      if (summary.call_id !== id) return;
      clearTimeout(timer);
      timer = setTimeout(load, AGAIN_MS);
      if (summary.state === "ended") after = setTimeout(load, AFTER_END_MS);
    }),
    live.on("sample", ({ call_id: of, samples }) => {
      if (of !== id || !call) return;
      call.samples.push(...samples);
      statistics.show(call.samples, call.began_ladder);
    }),
    live.on("resumed", load),
    onWidth(media, (width) => {
      wide = width;
      if (call) showMedia();
    }),
  ];
  let after = 0;
  load();
  return {
    title: `Call ${id.slice(0, 8)}`,
    element,
    update: (next) => next.view === "call" && next.id === id && (next.with.tab ?? "ladder") === tab,
    close() {
      clearTimeout(timer);
      clearTimeout(after);
      ladder.close();
      statistics.close();
      for (const end of stop) end();
    },
  };
}
