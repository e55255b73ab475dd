// The ladder of one call: filter by interface, move with the arrows, open a step.

import { el, onWidth, replace } from "./dom.js";
import { roving } from "./keys.js";
import { drawLadder, rowsOf } from "./ladder_drawing.js";
import { empty, toggles } from "./parts.js";

const KIND_NAMES = { decision: "decisions", mikey: "MIKEY notes", media: "media" };
const HIDDEN_AT_FIRST = ["Nnrf"];

/** What a step is filtered by: its interface, or its kind where it has none. */
export const filterOf = (step) => KIND_NAMES[step.kind] ?? (step.interface || step.kind.toUpperCase());

/** `onOpen(step)` is called when a step is opened. Returns {element, show(ladder), choose(step), close()}. */
export function ladderView(callId, onOpen) {
  const filter = el("div", { class: "filters" });
  const drawing = el("div", { class: "card flush drawing" });
  const element = el("div", { class: "form" }, filter, drawing);
  let ladder = null;
  let width = 0;
  let chosen = null;
  let hidden = new Set(HIDDEN_AT_FIRST);
  let names = "";

  function buildFilter() {
    const counts = new Map();
    for (const step of ladder.steps) counts.set(filterOf(step), (counts.get(filterOf(step)) ?? 0) + 1);
    const all = [...counts.keys()].sort();
    const key = all.map((name) => `${name} ${counts.get(name)}`).join();
    if (key === names) return;
    names = key;
    const focused = filter.contains(document.activeElement) ? document.activeElement.dataset.name : null;
    replace(filter, el("span", { class: "dim" }, "Show"), toggles("Steps shown, by interface", all, all.filter((name) => !hidden.has(name)), (on) => {
      hidden = new Set(all.filter((name) => !on.has(name)));
      draw();
    }, { titleOf: (name) => `${name} ${counts.get(name)}` }));
    if (focused) filter.querySelector(`[data-name="${CSS.escape(focused)}"]`)?.focus();
  }

  function draw() {
    if (!ladder || !width) return;
    const steps = ladder.steps.filter((step) => !hidden.has(filterOf(step)));
    if (!steps.length) {
      const why = ladder.steps.length ? "Every interface is filtered out; switch one on above." : "Spans of a call arrive within a second or two. A call that trace sampling left out has none.";
      return replace(drawing, empty("No steps to draw", why));
    }
    const used = new Set(steps.flatMap((step) => [step.from, step.to]));
    const focused = drawing.contains(document.activeElement) ? document.activeElement.dataset?.id : null;
    const before = drawing.firstElementChild;
    const [top, left] = [before?.scrollTop ?? 0, before?.scrollLeft ?? 0];
    const drawn = drawLadder({
      participants: ladder.participants.filter(({ name }) => used.has(name)),
      rows: rowsOf(steps),
      width,
      label: `Call flow of ${callId}; arrows move between steps, Enter opens one`,
      chosen,
      onOpen: open,
    });
    replace(drawing, drawn);
    [drawn.scrollTop, drawn.scrollLeft] = [top, left];
    const again = stepNode(focused);
    focus(again ?? stepNode(chosen) ?? drawn.querySelector(".step"), { quiet: !again });
  }

  const stepOf = (id) => ladder.steps.find((step) => step.ids.includes(id));
  const nodeOf = (step) => step && drawing.querySelector(`.step[data-id="${CSS.escape(step.ids[0])}"]`);
  /** The node of the step that has this id now: a step gets more of them, a new one first, as more of the call is known. */
  const stepNode = (id) => nodeOf(stepOf(id));

  function open(step) {
    choose(step);
    onOpen(step);
  }

  function choose(step) {
    [chosen] = step.ids;
    for (const node of drawing.querySelectorAll(".step")) {
      const is = node.dataset.id === chosen;
      node.classList.toggle("chosen", is);
      node.setAttribute("aria-selected", String(is));
      if (is) focus(node, { quiet: true });
    }
  }

  const focus = roving(drawing, {
    items: () => [...drawing.querySelectorAll(".step")],
    onOpen: (node) => open(stepOf(node.dataset.id)),
  });
  const stop = onWidth(drawing, (now) => {
    width = now;
    draw();
  });
  return {
    element,
    show(next) {
      const same = ladder && JSON.stringify(next) === JSON.stringify(ladder);
      ladder = next;
      if (same) return;
      buildFilter();
      draw();
    },
    choose,
    /** Back to the step that was opened, when its panel closes. */
    focusChosen: () => focus(stepNode(chosen)),
    reveal: () => stepNode(chosen)?.scrollIntoView({ block: "center" }),
    close: stop,
  };
}
