// Pieces that several views are made of: states, tables, tabs, notices.

import { announce, el, newId, replace } from "./dom.js";
import { live } from "./live.js";
import { link } from "./route.js";
import { standing } from "./words.js";

/** A sign and a word in the colour of `tone`. */
export const badge = (sign, words, tone) =>
  el("span", { class: `badge ${tone}` }, el("span", { class: "sign", "aria-hidden": "true" }, sign), words);

export function callBadge(call) {
  const how = standing(call);
  return badge(how.sign, how.words, how.tone);
}

export const button = (words, run, attributes = {}) =>
  el("button", { type: "button", ...attributes, on: { click: run } }, words);

/** What went wrong, in words, with a way on. Where nobody answered, `retry` is also made once somebody does. */
export function problem(error, retry = null) {
  if (retry && error.status === 0) {
    const stop = live.on("status", (status) => {
      if (status !== "live") return;
      stop();
      if (notice.isConnected) retry();
    });
  }
  const notice = el(
    "div",
    { class: "notice bad", role: "alert" },
    el("p", {}, error.message || String(error)),
    error.cause && el("p", { class: "dim" }, `Cause: ${error.cause}`),
    retry && button("Try again", () => retry()),
  );
  return notice;
}

/** Nothing is here yet, and what to do about it. */
export const empty = (title, ...next) =>
  el("div", { class: "notice empty" }, el("p", { class: "strong" }, title), ...next.map((line) => el("p", {}, line)));

export const waiting = (words = "Loading…") => el("p", { class: "waiting dim" }, words);

/** A table of `columns` ({head, cell(row), class}) with a caption for those who do not see it. */
export function table(caption, columns, rows, { rowClass = () => "" } = {}) {
  return el(
    "div",
    { class: "scroll-x", tabindex: "0", role: "region", "aria-label": caption },
    el(
      "table",
      {},
      el("caption", { class: "unseen" }, caption),
      el("thead", {}, el("tr", {}, columns.map(({ head, class: kind }) => el("th", { scope: "col", class: kind }, head)))),
      el(
        "tbody",
        {},
        rows.map((row) =>
          el("tr", { class: rowClass(row) }, columns.map(({ cell, class: kind }) => el("td", { class: kind }, cell(row)))),
        ),
      ),
    ),
  );
}

/** Pairs of name and value, beside each other. */
export const facts = (pairs) =>
  el(
    "dl",
    { class: "facts" },
    pairs
      .filter(([, value]) => value !== "" && value !== null && value !== undefined)
      .map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
  );

/** Text that is copied with one press. */
export function copyable(text, what) {
  const node = button("Copy", async () => {
    try {
      await navigator.clipboard.writeText(text);
      node.textContent = "Copied";
    } catch {
      node.textContent = "Press Ctrl-C"; // no clipboard here: the text is selected instead
      getSelection().selectAllChildren(shown);
    }
    announce(`${what}: ${node.textContent}`);
    setTimeout(() => (node.textContent = "Copy"), 2000);
  }, { class: "quiet copy", "aria-label": `Copy the ${what}` });
  const shown = el("code", {}, text);
  return el("span", { class: "copyable" }, shown, node);
}

export const traceLink = (id, words = null) => el("a", { href: link("trace", id), class: "mono" }, words ?? id.slice(0, 12));

/** Tabs after the pattern of WAI-ARIA: arrows move, the panel follows. `tabs`: {name, title}. */
export function tabList(tabs, chosen, onChoose, label) {
  const panel = el("div", { role: "tabpanel", id: newId("panel"), tabindex: "-1" });
  const buttons = tabs.map(({ name, title }) =>
    el("button", { type: "button", role: "tab", id: newId("tab"), "data-name": name, "aria-controls": panel.id, on: { click: () => choose(name) } }, title),
  );
  const list = el("div", { role: "tablist", class: "tabs", "aria-label": label }, buttons);
  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const at = buttons.indexOf(document.activeElement);
    if (!step || at < 0) return;
    event.preventDefault();
    const next = buttons[(at + step + buttons.length) % buttons.length];
    next.focus();
    choose(next.dataset.name);
  });
  function mark(name) {
    for (const tab of buttons) {
      const is = tab.dataset.name === name;
      tab.setAttribute("aria-selected", String(is));
      tab.tabIndex = is ? 0 : -1;
      if (is) panel.setAttribute("aria-labelledby", tab.id);
    }
  }
  function choose(name) {
    mark(name);
    replace(panel);
    onChoose(name, panel);
  }
  choose(tabs.some((tab) => tab.name === chosen) ? chosen : tabs[0].name);
  return { list, panel, choose };
}

/** Buttons that switch single things on and off; `onChange(set)` gets the names that are on. */
export function toggles(label, names, on, onChange, { titleOf = (name) => name, classOf = () => "" } = {}) {
  const chosen = new Set(on);
  return el(
    "div",
    { class: "toggles", role: "group", "aria-label": label },
    names.map((name) => {
      const node = el("button", { type: "button", class: `toggle ${classOf(name)}`, "aria-pressed": String(chosen.has(name)), "data-name": name }, titleOf(name));
      node.addEventListener("click", () => {
        if (!chosen.delete(name)) chosen.add(name);
        node.setAttribute("aria-pressed", String(chosen.has(name)));
        onChange(chosen);
      });
      return node;
    }),
  );
}

/** A labelled field of a form. */
export function field(words, control, hint = "") {
  control.id ||= newId("field");
  const hintId = hint ? newId("hint") : null;
  if (hintId) control.setAttribute("aria-describedby", hintId);
  return el("div", { class: "field" }, el("label", { for: control.id }, words), control, hint && el("p", { class: "hint", id: hintId }, hint));
}

export function choice(options, chosen, onChange = () => {}) {
  return el(
    "select",
    { on: { change: (event) => onChange(event.target.value) } },
    options.map(([value, words]) => el("option", { value, selected: value === chosen }, words)),
  );
}
