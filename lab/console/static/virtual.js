// A list of any length that draws only the rows one sees. Rows have one height; the focus stays on the list itself
// and an active row is named (aria-activedescendant), so that nothing is lost when a row leaves the screen.

import { el, newId } from "./dom.js";

const BEYOND = 8; // rows drawn outside the window on each side

/**
 * `columns`: {head, class, cell(row)}. `total()` rows; `row(i)` is a row or null where it is not here yet; `onNeed(i)`
 * asks for it. `onOpen(row)`, `keys`: {key: (row, i)}. Returns {element, refresh(), activate(i), active}.
 */
export function virtualGrid({ label, columns, height, total, row, onNeed, onOpen, keys = {}, rowClass = () => "" }) {
  const id = newId("grid");
  const space = el("div", { class: "vspace", role: "presentation" });
  const heads = el("div", { class: "vrow vhead", role: "row", "aria-rowindex": "1" },
    columns.map(({ head, class: kind }) => el("div", { role: "columnheader", class: kind }, head)));
  const body = el("div", { class: "vbody", role: "rowgroup" }, space);
  const element = el("div", { class: "vgrid", role: "grid", tabindex: "0", "aria-label": label, "aria-colcount": columns.length }, el("div", { role: "rowgroup" }, heads), body);
  let active = 0;
  let asked = false;
  let drawnRows = new WeakMap(); // by value: a row that has not changed keeps its element, and so the pointer on it

  function refresh({ anew = false } = {}) {
    if (anew) drawnRows = new WeakMap();
    const rows = total();
    active = Math.max(0, Math.min(active, rows - 1));
    element.setAttribute("aria-rowcount", rows + 1);
    space.style.height = `${rows * height}px`;
    const top = element.scrollTop;
    const first = Math.max(0, Math.floor(top / height) - BEYOND);
    const last = Math.min(rows - 1, Math.ceil((top + element.clientHeight) / height) + BEYOND);
    const drawn = [];
    for (let i = first; i <= last; i++) drawn.push(drawRow(i));
    space.replaceChildren(...drawn);
    if (!rows || active < first || active > last) element.removeAttribute("aria-activedescendant");
    else element.setAttribute("aria-activedescendant", `${id}-${active}`);
  }

  function drawRow(i) {
    const value = row(i);
    if (!value) onNeed(i);
    const node = (value && drawnRows.get(value)) ?? newRow(value);
    if (value) drawnRows.set(value, node);
    node.id = `${id}-${i}`;
    node.setAttribute("aria-rowindex", i + 2);
    node.setAttribute("aria-selected", String(i === active));
    node.classList.toggle("active", i === active);
    node.style.transform = `translateY(${i * height}px)`;
    return node;
  }

  function newRow(value) {
    const cells = value
      ? columns.map(({ cell, class: kind }) => el("div", { role: "gridcell", class: kind }, cell(value)))
      : el("div", { role: "gridcell", class: "dim" }, "…");
    const node = el("div", { class: `vrow ${value ? rowClass(value) : ""}`, role: "row" }, cells);
    node.addEventListener("click", (event) => {
      if (!value) return;
      active = node.getAttribute("aria-rowindex") - 2;
      if (event.target.closest("a, button")) refresh();
      else onOpen(value);
    });
    return node;
  }

  function activate(i) {
    active = Math.max(0, Math.min(total() - 1, i));
    const top = active * height;
    const seen = element.clientHeight - height;
    if (top < element.scrollTop) element.scrollTop = top;
    else if (top + height > element.scrollTop + seen) element.scrollTop = top + height - seen;
    refresh();
  }

  element.addEventListener("scroll", () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      refresh();
    });
  });
  element.addEventListener("keydown", (event) => {
    if (event.target !== element || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(element.clientHeight / height) - 2);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    const here = row(active);
    if (event.key in steps) activate(active + steps[event.key]);
    else if (event.key === "Enter" && here) onOpen(here);
    else if (event.key in keys && here) keys[event.key](here, active);
    else return;
    event.preventDefault();
  });
  return {
    element,
    refresh,
    activate,
    get active() {
      return active;
    },
  };
}
