// Calls as they happen: filters, search, and a list that stays quick however many there are.

import { announce, el, replace } from "./dom.js";
import { callList } from "./call_list.js";
import { lab } from "./lab.js";
import { picks } from "./picks.js";
import { button, callBadge, choice, empty, problem } from "./parts.js";
import { go, link, note } from "./route.js";
import { virtualGrid } from "./virtual.js";
import { callee, caller, clock, duration, plural } from "./words.js";

const ROW = 30;
const FILTERS = ["q", "user", "result", "security", "state"];
const TYPING_MS = 200;

export function callsView(first) {
  let filters = taken(first);
  const said = el("p", { class: "dim", role: "status" });
  const notice = el("div", {});
  const picking = el("div", { class: "picking" });

  const list = callList(filters, changed);
  const grid = virtualGrid({
    label: "Calls, newest first. Enter opens a call, c marks it for comparison",
    height: ROW,
    columns: columns(),
    total: () => list.total,
    row: list.row,
    onNeed: list.need,
    onOpen: (call) => go(link("call", call.call_id)),
    keys: { c: (call) => mark(call) },
    rowClass: (call) => (call.state === "ended" ? "" : "live"),
  });
  grid.element.classList.add("calls-grid");

  const q = el("input", { type: "search", value: filters.q, placeholder: "Call-ID, trace id or user…", "aria-label": "Find calls by user, Call-ID or trace id", spellcheck: "false", autocomplete: "off" });
  let typing = 0;
  q.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => refilter({ q: q.value.trim() }), TYPING_MS);
  });
  const selects = {
    user: choice([["", "anybody"], ...lab.current.users.map(({ name }) => [name, name])], filters.user, (user) => refilter({ user })),
    result: choice([["", "any result"], ...["established", "refused", "failed", "cancelled"].map((name) => [name, name])], filters.result, (result) => refilter({ result })),
    security: choice([["", "any mode"], ...lab.current.security_modes.map(({ name }) => [name, name])], filters.security, (security) => refilter({ security })),
    state: choice([["", "all"], ["live", "live now"], ["ended", "ended"]], filters.state, (state) => refilter({ state })),
  };
  const words = { user: "User", result: "Result", security: "Mode", state: "Show" };
  const element = el(
    "section",
    { class: "calls" },
    el("div", { class: "head" }, el("h1", {}, "Calls"), said, el("a", { class: "button-link", href: link("place") }, "Place a call")),
    el("div", { class: "filters card" }, q, Object.entries(selects).map(([name, select]) => el("label", {}, words[name], select)),
      button("Clear", () => refilter(Object.fromEntries(FILTERS.map((name) => [name, ""]))), { class: "quiet" })),
    picking,
    notice,
    el("div", { class: "card flush grow" }, grid.element),
  );

  function columns() {
    return [
      { head: "State", class: "c-state", cell: callBadge },
      { head: "Began", class: "c-began", cell: (call) => clock(call.began) },
      { head: "From", class: "c-from", cell: (call) => el("span", { title: call.from }, caller(call)) },
      { head: "To", class: "c-to", cell: (call) => el("span", { title: call.to }, callee(call)) },
      { head: "Mode", class: "c-mode", cell: (call) => call.security && el("span", { class: "chip" }, call.security) },
      { head: "Set-up", class: "c-setup num", cell: (call) => duration(call.setup_ms) },
      { head: "Talk", class: "c-talk num", cell: (call) => duration(call.duration_ms) },
      { head: "SIP", class: "c-sip num", cell: (call) => call.sip_status || "–" },
      { head: "Reason", class: "c-reason", cell: (call) => el("span", { title: call.reason }, call.reason) },
      { head: "Call-ID", class: "c-id", cell: (call) => el("a", { class: "mono", tabindex: "-1", href: link("call", call.call_id) }, call.call_id) },
      { head: "Compare", class: "c-pick", cell: (call) => button(picks.has(call.call_id) ? "◉ marked" : "○ mark", () => mark(call), { class: "quiet copy", tabindex: "-1", "aria-pressed": String(picks.has(call.call_id)), "aria-label": `Mark the call of ${caller(call)} to ${callee(call)} for comparison` }) },
    ];
  }

  function mark(call) {
    picks.toggle(call.call_id);
    announce(picks.has(call.call_id) ? "Marked for comparison" : "No longer marked");
  }

  function showPicks() {
    const all = picks.all;
    replace(picking, all.length > 0 && el("div", { class: "notice row" },
      el("span", {}, all.length === 2 ? "Two calls are marked." : "One call is marked; mark another one to compare them."),
      all.length === 2 && el("a", { href: link("compare", "", { a: all[0], b: all[1] }) }, "Compare them"),
      button("Unmark", picks.clear, { class: "quiet" })));
    grid.refresh({ anew: true });
  }

  function changed({ shifted }) {
    if (shifted && grid.element.scrollTop > 0) {
      grid.element.scrollTop += shifted * ROW; // what one reads stays where it is
    }
    const filtered = FILTERS.some((name) => filters[name]);
    replace(said, list.loaded ? `${plural(list.total, "call")}${filtered ? " pass the filter" : ""}` : "Loading…");
    replace(notice, list.failed ? problem(list.failed, list.restart)
      : list.loaded && !list.total && (filtered
        ? empty("No call passes the filter", "Clear it, or search by the beginning of a Call-ID, a trace id or a user.")
        : empty("No calls yet", el("a", { href: link("place") }, "Place a call"), "or run: imslab call alice bob")));
    grid.element.parentElement.hidden = list.loaded && !list.total;
    grid.refresh();
  }

  function refilter(part) {
    filters = { ...filters, ...part };
    note(filters);
    if (document.activeElement !== q) q.value = filters.q;
    for (const [name, select] of Object.entries(selects)) select.value = filters[name];
    grid.element.scrollTop = 0;
    list.filter(filters);
  }

  const resized = new ResizeObserver(() => grid.refresh());
  resized.observe(grid.element);
  const unpick = picks.onChange(showPicks);
  showPicks();
  changed({ shifted: 0 });
  return {
    title: "Calls",
    element,
    update(route) {
      if (route.view !== "calls") return false;
      refilter(taken(route));
      return true;
    },
    close() {
      clearTimeout(typing);
      resized.disconnect();
      unpick();
      list.close();
    },
  };
}

const taken = (route) => Object.fromEntries(FILTERS.map((name) => [name, route.with[name] ?? ""]));
