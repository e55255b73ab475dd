// Placing calls: the form, and what became of each order, as it happens.

import { api } from "./api.js";
import { announce, el, newId, replace } from "./dom.js";
import { lab } from "./lab.js";
import { live } from "./live.js";
import { badge, choice, empty, field, problem } from "./parts.js";
import { link } from "./route.js";
import { duration } from "./words.js";

const STEPS = ["waiting", "registering", "calling", "ringing", "early", "established", "media", "ended"];
const WORDS = {
  waiting: "waiting for its turn", registering: "registering both ends", calling: "INVITE sent", ringing: "ringing", early: "early media", established: "answered",
  media: "media flows", ended: "over", refused: "could not be tried",
};
const SHOWN = 12;

export function placeView(route) {
  const callers = lab.current.users.filter((user) => user.software_ue);
  const orders = new Map();
  const failure = el("div", {});
  const unknown = el("div", {});
  const list = el("ol", { class: "orders" });
  const names = newId("users");
  const from = choice(callers.map(({ name, impu }) => [name, `${name} (${impu})`]), route.with.from ?? callers[0]?.name ?? "");
  const to = el("input", { list: names, required: true, value: route.with.to ?? callers[1]?.name ?? "", autocomplete: "off", spellcheck: "false" });
  const modes = [["", "what the caller's UE chooses"], ...lab.current.security_modes.map(({ name, title }) => [name, title && title !== name ? `${name}: ${title}` : name])];
  const security = choice(modes, route.with.security ?? "");
  const seconds = el("input", { type: "number", min: "0.1", max: "3600", step: "0.1", required: true, value: route.with.seconds ?? "5" });
  let suites = [];
  const order = el("p", { class: "hint", role: "status" });
  const boxes = lab.current.suites.map((name) => {
    const id = newId("suite");
    const box = el("input", { type: "checkbox", id, on: { change: () => choose(name, box.checked) } });
    return el("div", {}, box, " ", el("label", { for: id, class: "mono" }, name));
  });
  const submit = el("button", { class: "primary" }, "Place the call");

  function choose(name, on) {
    suites = on ? [...suites, name] : suites.filter((other) => other !== name);
    showSuites();
  }
  function showSuites() {
    replace(order, suites.length ? `Offered in this order: ${suites.join(", ")}` : "None chosen: what the UE offers by itself.");
  }

  async function place(event) {
    event.preventDefault();
    submit.disabled = true;
    replace(failure);
    try {
      const answer = await api.placeCall({ from: from.value, to: to.value.trim(), security: security.value || null, seconds: Number(seconds.value), suites });
      take(answer.order);
    } catch (error) {
      replace(failure, problem(error));
    }
    submit.disabled = false;
  }

  function take(one) {
    const before = orders.get(one.order);
    if (before && STEPS.indexOf(one.state) < STEPS.indexOf(before.state) && one.state !== "refused") return; // an answer that events overtook
    orders.set(one.order, { ...before, ...one });
    if (before?.state !== one.state && (one.state === "ended" || one.state === "refused")) announce(`Call of ${one.from} to ${one.to}: ${verdictWords(one)}`);
    show();
  }

  function show() {
    const newest = [...orders.values()].sort((a, b) => b.order - a.order).slice(0, SHOWN);
    const focused = list.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    replace(list, newest.length ? newest.map(drawOrder) : el("li", {}, empty("No call placed yet", "Fill in the form; what becomes of the call is shown here step by step.")));
    if (focused) list.querySelector(`[href="${CSS.escape(focused)}"]`)?.focus();
  }

  showSuites();
  show();
  const stop = [live.on("order", take), live.on("resumed", loadOrders)];
  async function loadOrders() {
    replace(unknown);
    try {
      for (const one of (await api.orders()).orders) take(one);
    } catch (error) {
      replace(unknown, problem(error, loadOrders));
    }
  }
  loadOrders();
  return {
    title: "Place a call",
    element: el("section", {}, el("h1", {}, "Place a call"),
      el("div", { class: "place" },
        el("form", { class: "card form", on: { submit: place } },
          field("From", from, "Software UEs of the lab."),
          field("To", to, "A user, or a sip: or tel: URI."),
          el("datalist", { id: names }, lab.current.users.map(({ name, impu }) => el("option", { value: name }, impu))),
          field("Security", security),
          el("fieldset", {}, el("legend", {}, "Suites"), boxes, order),
          field("Seconds of talk", seconds),
          failure,
          submit),
        el("section", { class: "grow" }, el("h2", {}, "Orders, newest first"), unknown, list))),
    update: () => true,
    close() {
      for (const end of stop) end();
    },
  };
}

function verdictWords(one) {
  if (one.state === "refused") return one.problem ?? "refused";
  const result = one.verdict?.result ?? "over";
  return [result, one.verdict?.security].filter(Boolean).join(", ");
}

function drawOrder(one) {
  const at = STEPS.indexOf(one.state);
  const over = one.state === "ended" || one.state === "refused";
  const good = one.verdict?.result === "established";
  const mark = over ? (good ? badge("✓", verdictWords(one), "good") : badge("✕", verdictWords(one), "bad")) : badge("◐", WORDS[one.state], "busy");
  const meaning = [one.problem && one.state !== "refused" && one.problem, one.verdict?.reason ?? one.reason, one.verdict?.meaning].filter(Boolean);
  return el("li", { class: "card order" },
    el("div", { class: "head" }, el("strong", {}, `${one.from} → ${one.to}`), el("span", { class: "chip" }, one.security ?? "UE's choice"), mark,
      one.call_id && el("a", { href: link("call", one.call_id) }, over ? "Open the call" : "Watch the call")),
    !over && el("progress", { max: STEPS.length - 1, value: at, "aria-label": `Progress: ${WORDS[one.state]}` }),
    over && one.verdict && el("p", { class: "dim" }, [`set-up ${duration(one.verdict.setup_ms)}`, one.verdict.sip_status && `answer ${one.verdict.sip_status}`, audioWords(one.verdict)].filter(Boolean).join(" · ")),
    !good && over && meaning.map((line) => el("p", {}, line)));
}

function audioWords(verdict) {
  const ways = Object.entries(verdict.audio ?? {});
  return ways.map(([way, { heard }]) => `${way.replace("->", " → ")} ${heard ? "heard" : "not heard"}`).join(", ");
}
