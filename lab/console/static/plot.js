// Lines over time. A series has a colour, a dash and a mark of its own, so that it is found again without colour.

import { el, newId, onWidth, replace, svg } from "./dom.js";
import { ticks } from "./time_scale.js";
import { measure } from "./words.js";

const HEIGHT = 150;
const LEFT = 46;
const RIGHT = 12;
const TOP = 10;
const BOTTOM = 24;
export const DASHES = ["", "6 3", "2 3", "9 3 2 3", "1 4", "12 4"];
const MARKS = [
  "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z", "M-3-3h6v6h-6z", "M0-4l4 7h-8z", "M0-4l4 4l-4 4l-4-4z", "M-4-1h3v-3h2v3h3v2h-3v3h-2v-3h-3z", "M-3-3l6 6m0-6l-6 6",
];

/** The sign of series number `index`, for lines and legends. */
export const seriesSign = (index) =>
  svg("svg", { width: 34, height: 12, "aria-hidden": "true", class: "sample" },
    svg("line", { class: `line s${index % 6}`, x1: 1, x2: 33, y1: 6, y2: 6, "stroke-dasharray": DASHES[index % 6] }),
    svg("path", { class: `dot s${index % 6}`, d: MARKS[index % 6], transform: "translate(17 6)" }));

/** A plot that is given `show(series, range)`: [{name, points: [[second, value]]}], [from, to] in seconds. */
export function plot(title, unit) {
  const drawing = el("div", { class: "plot" });
  const read = el("p", { class: "dim readout", "aria-live": "polite" }, "Point at the plot, or press ← → on it, to read values.");
  const id = newId("plot");
  const element = el("figure", { class: "card" }, el("figcaption", { class: "strong", id }, `${title}, ${unit}`), drawing, read);
  let series = [];
  let range = [0, 1];
  let width = 0;
  let cursor = null;
  let scale = null;

  function draw() {
    if (!width) return;
    const values = series.flatMap((one) => one.points.map(([, value]) => value));
    const top = Math.max(1, ...values) * 1.08;
    const x = (t) => LEFT + ((t - range[0]) / Math.max(range[1] - range[0], 0.001)) * (width - LEFT - RIGHT);
    const y = (v) => HEIGHT - BOTTOM - (v / top) * (HEIGHT - TOP - BOTTOM);
    scale = { x };
    const summary = series.map((one) => `${one.name}: last ${measure(one.points.at(-1)?.[1], unit)}, most ${measure(Math.max(0, ...one.points.map(([, v]) => v)), unit)}`).join("; ");
    const focused = drawing.contains(document.activeElement);
    replace(drawing, svg(
      "svg",
      {
        width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", tabindex: 0, "aria-label": `${title} over time. ${summary || "No values yet"}`,
        on: { pointermove: (event) => point(range[0] + ((event.offsetX - LEFT) / (width - LEFT - RIGHT)) * (range[1] - range[0])), keydown },
      },
      ticks(0, top, 3).map((value) => [svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }), svg("text", { class: "tick", x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, measure(value))]),
      ticks(range[0], range[1], Math.max(2, Math.round(width / 120))).map((value) => svg("text", { class: "tick", x: x(value), y: HEIGHT - 7, "text-anchor": "middle" }, `${measure(value)} s`)),
      series.map((one, index) => drawSeries(one, index, x, y)),
      svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, x1: -9, x2: -9 }),
    ));
    if (focused) drawing.firstElementChild.focus();
    if (cursor !== null) point(cursor);
  }

  function drawSeries({ points }, index, x, y) {
    if (!points.length) return null;
    const every = Math.max(1, Math.ceil(points.length / 12));
    const kind = `s${index % 6}`;
    return svg("g", {},
      svg("polyline", { class: `line ${kind}`, points: points.map(([t, v]) => `${x(t).toFixed(1)},${y(v).toFixed(1)}`).join(" "), "stroke-dasharray": DASHES[index % 6] }),
      points.filter((_, at) => at % every === 0 || at === points.length - 1).map(([t, v]) => svg("path", { class: `dot ${kind}`, d: MARKS[index % 6], transform: `translate(${x(t).toFixed(1)} ${y(v).toFixed(1)})` })));
  }

  const times = () => [...new Set(series.flatMap((one) => one.points.map(([t]) => t)))].sort((a, b) => a - b);

  function point(second) {
    const all = times();
    if (!all.length) return;
    cursor = all.reduce((best, t) => (Math.abs(t - second) < Math.abs(best - second) ? t : best));
    const line = drawing.querySelector(".cursor");
    for (const end of ["x1", "x2"]) line.setAttribute(end, scale.x(cursor));
    const near = series.map((one) => [one.name, one.points.findLast(([t]) => t <= cursor + 0.5)?.[1]]).filter(([, value]) => value !== undefined);
    replace(read, `${measure(cursor)} s: ${near.map(([name, value]) => `${name} ${measure(value, unit)}`).join(" · ")}`);
  }

  function keydown(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const all = times();
    if (!step || !all.length) return;
    event.preventDefault();
    const at = cursor === null ? (step > 0 ? -1 : all.length) : all.indexOf(cursor);
    point(all[Math.max(0, Math.min(all.length - 1, at + step))]);
  }

  const stop = onWidth(drawing, (now) => {
    width = now;
    draw();
  });
  return {
    element,
    show(next, nextRange) {
      series = next;
      range = nextRange;
      draw();
    },
    close: stop,
  };
}
