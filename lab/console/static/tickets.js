// What the key management services granted and refused: the audit, without keys.

import { api } from "./api.js";
import { el, replace } from "./dom.js";
import { lab } from "./lab.js";
import { live } from "./live.js";
import { badge, button, choice, empty, problem, table, waiting } from "./parts.js";
import { link, note } from "./route.js";
import { clock, plural, tone } from "./words.js";

const SHOWN = 200;
const OPERATIONS = { request: "asked for a ticket", resolve: "asked what a ticket holds", relay: "asked another KMS" };

export function ticketsView(route) {
  const holder = el("div", {}, waiting());
  const said = el("p", { class: "dim", role: "status" });
  const failed = el("div", {});
  let filters = { user: route.with.user ?? "", outcome: route.with.outcome ?? "" };
  let rows = [];

  async function load() {
    try {
      const answer = await api.tickets({ user: filters.user, limit: SHOWN });
      rows = answer.tickets;
      replace(failed, answer.failed.map(({ kms, reason }) => el("div", { class: "notice bad", role: "alert" }, el("p", {}, el("strong", {}, kms), ` gave no audit: ${reason}`))));
    } catch (error) {
      replace(holder, problem(error, load));
      return;
    }
    show();
  }

  function show() {
    const kept = rows.filter((row) => !filters.outcome || row.outcome === filters.outcome);
    replace(said, plural(kept.length, "decision") + (rows.length >= SHOWN ? `, the newest ${SHOWN}` : ""));
    if (!kept.length) {
      return replace(holder, rows.length || filters.user
        ? empty("No decision passes the filter", "Choose another user or outcome.")
        : empty("No tickets yet", el("a", { href: link("place", "", { security: "e2e-kms" }) }, "Place a call with keys of the KMS"), "or run: imslab ticket request alice bob"));
    }
    replace(holder, el("div", { class: "card flush" }, table("Decisions of the key management services, newest first", [
      { head: "At", class: "nowrap", cell: (row) => clock(row.at) },
      { head: "KMS", cell: (row) => el("a", { href: link("topology", row.kms) }, row.kms) },
      { head: "User", cell: (row) => row.user },
      { head: "What", cell: (row) => (row.peer_kms ? `${OPERATIONS[row.operation] ?? row.operation} (with ${row.peer_kms})` : (OPERATIONS[row.operation] ?? row.operation)) },
      { head: "Outcome", cell: (row) => badge(row.outcome === "refused" ? "⊘" : "✓", row.outcome, row.outcome === "refused" ? "bad" : tone("granted")) },
      { head: "Reason", cell: (row) => row.reason },
      { head: "For", cell: (row) => row.responders.join(", ") },
      { head: "Ticket", class: "mono", cell: (row) => row.ticket_id },
      { head: "Valid until", class: "nowrap", cell: (row) => (row.not_after ? clock(row.not_after) : "") },
    ], kept)));
  }

  const refilter = (part) => {
    filters = { ...filters, ...part };
    note(filters);
    return "user" in part ? load() : show();
  };
  const stop = [
    live.on("ticket", (row) => {
      if (filters.user && lab.user(filters.user)?.impu !== row.user) return;
      rows = [row, ...rows].slice(0, SHOWN);
      show();
    }),
    live.on("resumed", load),
  ];
  load();
  return {
    title: "KMS tickets",
    element: el("section", {}, el("div", { class: "head" }, el("h1", {}, "KMS tickets"), said),
      el("div", { class: "filters card" },
        el("label", {}, "User", choice([["", "anybody"], ...lab.current.users.map(({ name }) => [name, name])], filters.user, (user) => refilter({ user }))),
        el("label", {}, "Outcome", choice([["", "any"], ["granted", "granted"], ["altered", "altered"], ["refused", "refused"]], filters.outcome, (outcome) => refilter({ outcome }))),
        button("Refresh", load, { class: "quiet" })),
      failed, holder),
    update: () => true,
    close() {
      for (const end of stop) end();
    },
  };
}
