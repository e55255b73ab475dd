// What a search found: calls, users, traces, nodes.

import { api } from "./api.js";
import { el, replace } from "./dom.js";
import { lab } from "./lab.js";
import { badge, callBadge, empty, problem, table, traceLink, waiting } from "./parts.js";
import { link } from "./route.js";
import { callee, caller, clock, nodeSign, tone } from "./words.js";

export function searchView(route) {
  const holder = el("div", { class: "form" }, waiting());
  let asked = "";

  async function load(q) {
    asked = q;
    replace(holder, waiting("Searching…"));
    try {
      const found = await api.search(q);
      if (asked === q) show(found, q);
    } catch (error) {
      if (asked === q) replace(holder, problem(error, () => load(q)));
    }
  }

  function show({ calls, users, traces, nodes }, q) {
    const groups = [
      users.length > 0 && group("Users", [
        { head: "User", cell: (user) => el("a", { href: link("calls", "", { user: user.name }) }, user.name) },
        { head: "Identity", cell: (user) => user.impu },
        { head: "Number", cell: (user) => user.tel },
        { head: "Registered", cell: ({ name }) => (lab.user(name)?.registered ?? null) === null ? "not known" : (lab.user(name).registered ? badge("●", "registered", "good") : badge("○", "not registered", "off")) },
      ], users),
      calls.length > 0 && group("Calls", [
        { head: "State", cell: callBadge },
        { head: "Began", class: "nowrap", cell: (call) => clock(call.began) },
        { head: "From", cell: (call) => caller(call) },
        { head: "To", cell: (call) => callee(call) },
        { head: "Mode", cell: (call) => call.security },
        { head: "Call-ID", class: "mono", cell: (call) => el("a", { href: link("call", call.call_id) }, call.call_id) },
        { head: "Trace", class: "mono", cell: (call) => traceLink(call.trace_id) },
      ], calls),
      traces.length > 0 && group("Traces", [
        { head: "Trace", class: "mono", cell: (trace) => traceLink(trace.trace_id, trace.trace_id) },
        { head: "Begins with", cell: (trace) => trace.what },
        { head: "Node", cell: (trace) => trace.node },
        { head: "Began", class: "nowrap", cell: (trace) => clock(trace.began) },
        { head: "Call", cell: (trace) => trace.call_id && el("a", { class: "mono", href: link("call", trace.call_id) }, trace.call_id) },
      ], traces),
      nodes.length > 0 && group("Nodes", [
        { head: "Node", cell: (node) => el("a", { href: link("topology", node.instance) }, node.instance) },
        { head: "State", cell: (node) => badge(nodeSign(node.state), node.state, tone(node.state)) },
        { head: "Kind", cell: (node) => node.kind },
      ], nodes),
    ].filter(Boolean);
    replace(holder, groups.length ? groups : empty(`Nothing found for “${q}”`, "A search takes the beginning of a Call-ID or trace id, or a user, identity, number or node."));
  }

  const group = (title, columns, rows) => el("section", {}, el("h2", {}, title), el("div", { class: "card flush" }, table(title, columns, rows)));
  const heading = el("h1", {}, "Search");
  const begin = (q) => {
    replace(heading, `Search: ${q}`);
    if (q) load(q);
    else replace(holder, empty("Search for what?", "A user, the beginning of a Call-ID or of a trace id."));
  };
  begin(route.with.q ?? "");
  return {
    title: "Search",
    element: el("section", {}, heading, holder),
    update(next) {
      begin(next.with.q ?? "");
      return true;
    },
  };
}
