// Who is registered, where and with which media security; and the button for it.

import { api } from "./api.js";
import { announce, el, replace } from "./dom.js";
import { lab } from "./lab.js";
import { live } from "./live.js";
import { badge, button, empty, problem, table, waiting } from "./parts.js";
import { link } from "./route.js";
import { duration, plural } from "./words.js";

const AGAIN_MS = 500;

export function registrationsView() {
  const holder = el("div", {}, waiting());
  const said = el("p", { class: "dim", role: "status" });
  const failure = el("div", {});
  const busy = new Set();
  let rows = [];
  let fetched = 0;
  let timer = 0;

  async function load() {
    try {
      ({ registrations: rows } = await api.registrations());
      fetched = Date.now();
    } catch (error) {
      replace(holder, problem(error, load));
      return;
    }
    show();
  }

  async function change(user, registered) {
    busy.add(user);
    show();
    try {
      const answer = await (registered ? api.deregister(user) : api.register(user));
      const done = answer.registered === !registered;
      announce(`${user}: ${answer.registered ? "registered" : "not registered"}`);
      replace(failure, !done && problem(new Error(`${user} is ${answer.registered ? "still" : "not"} registered: ${[answer.sip_status || "", answer.reason].join(" ").trim() || "no answer"}`)));
    } catch (error) {
      replace(failure, problem(error));
    }
    busy.delete(user);
    await load();
  }

  function show() {
    const foreign = lab.current.users.filter((user) => !user.software_ue);
    const registered = rows.filter((row) => row.registered).length;
    replace(said, `${registered} of ${plural(rows.length, "software UE")} registered`);
    const focused = holder.contains(document.activeElement) ? document.activeElement.dataset.user : null;
    if (!rows.length && !foreign.length) return replace(holder, empty("No users", "The lab description (config/lab.yaml) names none."));
    replace(holder, el("div", { class: "card flush" }, table("Registrations", [
      { head: "User", cell: (row) => el("a", { href: link("topology", row.user) }, el("strong", {}, row.user)) },
      { head: "State", cell: (row) => (row.registered ? badge("●", "registered", "good") : row.reason ? badge("▲", row.reason, "bad") : badge("○", "not registered", "off")) },
      { head: "Identity", cell: (row) => row.impu },
      { head: "Access", cell: (row) => row.access },
      { head: "P-CSCF", cell: (row) => row.pcscf },
      { head: "Transport", cell: (row) => row.transport },
      { head: "Media security", cell: (row) => row.media_mechanisms?.join(", ") || (row.registered ? "none announced" : "") },
      { head: "Expires", class: "num nowrap", cell: (row) => (row.registered && row.expires_in_s !== null ? duration(Math.max(0, row.expires_in_s * 1000 - (Date.now() - fetched))) : "") },
      { head: "", cell: (row) => button(busy.has(row.user) ? "…" : row.registered ? "De-register" : "Register", () => change(row.user, row.registered), { disabled: busy.has(row.user), "data-user": row.user, "aria-label": `${row.registered ? "De-register" : "Register"} ${row.user}` }) },
    ], rows)),
    foreign.length > 0 && el("p", { class: "dim after" }, `Left to foreign clients: ${foreign.map(({ name }) => name).join(", ")}. A configuration for one: imslab client-config baresip ${foreign[0].name}`));
    if (focused) holder.querySelector(`[data-user="${CSS.escape(focused)}"]`)?.focus();
  }

  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(load, AGAIN_MS);
  };
  const stop = [live.on("registration", later), live.on("resumed", load)];
  const ageing = setInterval(() => rows.length && !holder.contains(document.activeElement) && show(), 10_000);
  load();
  return {
    title: "Registrations",
    element: el("section", {}, el("div", { class: "head" }, el("h1", {}, "Registrations"), said), failure, holder),
    update: () => true,
    close() {
      clearTimeout(timer);
      clearInterval(ageing);
      for (const end of stop) end();
    },
  };
}
