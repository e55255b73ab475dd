// One node: how it is, where its log is, whom it talks to, what it measures.

import { api } from "./api.js";
import { el, replace } from "./dom.js";
import { lab } from "./lab.js";
import { badge, button, copyable, empty, facts, problem, waiting } from "./parts.js";
import { link } from "./route.js";
import { clock, measure, nodeSign, tone } from "./words.js";

const METRICS_EVERY_MS = 5000;
const INNER = /^otel\./; // how telemetry itself fares: rarely what one looks for

/** Panel of `instance`; `onClose()` is called by its button and by Escape. Returns {element, close()}. */
export function nodePanel(instance, onClose) {
  const body = el("div", { class: "form" });
  const measured = el("div", {}, waiting());
  const element = el("div", { class: "form", on: { keydown: (event) => event.key === "Escape" && onClose() } },
    el("div", { class: "head" }, el("h2", {}, instance), button("Close", onClose, { class: "quiet" })),
    body,
    el("section", {}, el("h3", {}, "Metrics"), measured));

  function show() {
    const node = lab.node(instance);
    if (!node) return replace(body, empty("No such node", "It may have been taken away by imslab scale."));
    const user = node.kind === "ue" ? lab.user(instance) : null;
    replace(
      body,
      badge(nodeSign(node.state), node.state + (node.reason ? `: ${node.reason}` : ""), tone(node.state)),
      facts([
        ["Restarts", node.restarts],
        ["Since", clock(node.since)],
        ["Process", node.pid],
        ["Load", node.load && `${node.load.streams} of ${node.load.streams_max} streams`],
        ["Instance of", node.nf !== instance ? node.nf : ""],
        ["NF types", node.nf_types?.join(", ")],
        ["Home network", node.home_domains?.join(", ")],
        ["Access network", node.access_network],
        ["SBI", node.sbi],
        ["Identity", user?.impu],
        ["Registered", user && (user.registered ? `yes, ${user.media_mechanisms?.join(", ") || "no media security"}` : "no")],
      ]),
      user && el("p", {}, el("a", { href: link("calls", "", { user: instance }) }, `Calls of ${instance}`)),
      el("section", {}, el("h3", {}, "Log"), copyable(`imslab logs ${instance}`, "command"), node.log_line && el("pre", { class: "log" }, node.log_line)),
      neighbours(),
    );
  }

  function neighbours() {
    const rows = lab.current.links
      .filter((one) => (one.a === instance || one.b === instance) && !one.quiet)
      .map((one) => ({ other: one.a === instance ? one.b : one.a, ...one }));
    if (!rows.length) return null;
    return el("section", {}, el("h3", {}, "Talks to"),
      el("ul", { class: "plain" }, rows.map(({ other, interface: point, transport }) =>
        el("li", {}, el("span", { class: "chip" }, point), " ", el("a", { href: link("topology", other) }, other), el("span", { class: "dim" }, ` ${transport}`)))));
  }

  async function measureNow() {
    try {
      const { series } = await api.metrics(instance);
      const own = series.filter((one) => one.node === instance);
      const about = (one) => INNER.test(one.name);
      const inner = own.filter(about);
      const open = measured.querySelector("details")?.open;
      replace(measured,
        own.length === inner.length && el("p", { class: "dim" }, "Nothing measured yet; nodes report every few seconds."),
        list(own.filter((one) => !about(one))),
        inner.length > 0 && el("details", { open }, el("summary", { class: "dim" }, "of the telemetry itself"), list(inner)));
    } catch (error) {
      replace(measured, problem(error, measureNow));
    }
  }

  const stop = lab.onChange(show);
  const timer = setInterval(measureNow, METRICS_EVERY_MS);
  show();
  measureNow();
  return {
    element,
    close() {
      stop();
      clearInterval(timer);
    },
  };
}

const list = (series) => el("dl", { class: "metrics" }, series.map((one) => el("div", {},
  el("dt", {}, one.name, el("span", { class: "dim" }, labels(one.attributes))),
  el("dd", {}, measure(one.value, unitWords(one.unit))))));

/** UCUM writes what is counted in braces, and 1 for what has no unit. */
const unitWords = (unit) => (unit === "1" || !unit ? "" : unit.replace(/[{}]/g, ""));

function labels(attributes) {
  const pairs = Object.entries(attributes ?? {});
  return pairs.length ? ` ${pairs.map(([name, value]) => `${name}=${value}`).join(" ")}` : "";
}
