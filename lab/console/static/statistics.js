// Loss, jitter and drops of a call over time, for every node and side that counts them.

import { el, replace } from "./dom.js";
import { empty, table } from "./parts.js";
import { plot, seriesSign } from "./plot.js";
import { measure } from "./words.js";

const keyOf = (sample) => [sample.node, sample.side, sample.stream && String(sample.stream) !== "1" ? `stream ${sample.stream}` : ""].filter(Boolean).join(" ");
const sum = (drops) => Object.values(drops ?? {}).reduce((total, n) => total + n, 0);

/** Counters since the stream began, as what happened between one sample and the next. */
export function changes(samples, value) {
  const points = [];
  samples.forEach((sample, at) => {
    const before = samples[at - 1];
    if (before) points.push([sample.second, Math.max(0, value(sample) - value(before))]);
  });
  return points;
}

/** Returns {element, show(samples, began)}; `began` is 0 of the time axis, ms since the epoch. */
export function statisticsView() {
  const plots = { lost: plot("Lost packets between samples", "packets"), jitter: plot("Jitter", "ms"), drops: plot("Dropped packets between samples", "packets") };
  const legend = el("ul", { class: "signs" });
  const values = el("div", {});
  const causes = el("p", {});
  const nothing = empty("No statistics yet", "Nodes report about once a second while media flows; a call shorter than that has none.");
  const figures = el("div", { class: "form" }, legend, causes, Object.values(plots).map((one) => one.element), el("details", { class: "card" }, el("summary", {}, "Values as a table"), values));
  const element = el("div", {}, nothing, figures);

  function show(samples, began) {
    const lines = new Map();
    for (const sample of samples) {
      const line = lines.get(keyOf(sample)) ?? lines.set(keyOf(sample), []).get(keyOf(sample));
      line.push({ ...sample, second: (sample.at - began) / 1000 });
    }
    nothing.hidden = lines.size > 0;
    figures.hidden = lines.size === 0;
    if (!lines.size) return;
    const names = [...lines.keys()].sort();
    const all = [...lines.values()].flat().map(({ second }) => second);
    const range = [Math.max(0, Math.min(...all)), Math.max(...all, Math.min(...all) + 1)];
    const series = (points) => names.map((name) => ({ name, points: points(lines.get(name)) }));
    replace(legend, names.map((name, index) => el("li", {}, seriesSign(index), name)));
    plots.lost.show(series((line) => changes(line, ({ lost }) => lost ?? 0)), range);
    plots.jitter.show(series((line) => line.filter(({ jitter_ms: jitter }) => jitter !== null).map(({ second, jitter_ms: jitter }) => [second, jitter])), range);
    plots.drops.show(series((line) => changes(line, ({ drops }) => sum(drops))), range);
    const total = {};
    for (const line of lines.values()) for (const [cause, n] of Object.entries(line.at(-1).drops ?? {})) total[cause] = (total[cause] ?? 0) + n;
    const told = Object.entries(total).filter(([, n]) => n);
    replace(causes, told.length ? `Dropped so far: ${told.map(([cause, n]) => `${cause} ${n}`).join(", ")}.` : "No packet was dropped.");
    replace(values, table("Last sample of every node and side", [
      { head: "Node and side", cell: ([name]) => name },
      { head: "In", class: "num", cell: ([, line]) => measure(line.at(-1).packets_in) },
      { head: "Out", class: "num", cell: ([, line]) => measure(line.at(-1).packets_out) },
      { head: "Lost", class: "num", cell: ([, line]) => measure(line.at(-1).lost) },
      { head: "Jitter", class: "num", cell: ([, line]) => measure(line.at(-1).jitter_ms, "ms") },
      { head: "Dropped", class: "num", cell: ([, line]) => measure(sum(line.at(-1).drops)) },
    ], names.map((name) => [name, lines.get(name)])));
  }
  return {
    element,
    show,
    close() {
      for (const one of Object.values(plots)) one.close();
    },
  };
}
