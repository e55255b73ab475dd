// A trace that belongs to no call, or whose call one does not know: a registration, a ticket request.

import { api } from "./api.js";
import { el, replace } from "./dom.js";
import { copyable, problem, waiting } from "./parts.js";
import { parse } from "./route.js";
import { waterfall } from "./waterfall.js";
import { clock } from "./words.js";

const TRIES = 6;
const AGAIN_MS = 1000;
const YOUNG_MS = 15_000;

export function traceView(route) {
  let tries = 0;
  let shown = 0;
  let timer = 0;
  const holder = el("div", {}, waiting());
  const said = el("p", { class: "dim" });
  async function load() {
    try {
      const trace = await api.trace(route.id);
      replace(said, trace.began ? `began ${clock(trace.began)}` : "");
      // Nodes send their spans in batches: a trace this young still grows.
      if (Date.now() - trace.began - (trace.duration_ms ?? 0) < YOUNG_MS) timer = setTimeout(load, AGAIN_MS);
      if (trace.spans.length === shown) return;
      shown = trace.spans.length;
      replace(holder, waterfall(trace, parse(location.hash).with.span));
    } catch (error) {
      // Spans arrive a second or two after they end, and one may come here straight from a command.
      if (error.status === 404 && ++tries < TRIES) {
        replace(holder, waiting("Not here yet; spans arrive a second or two after they end…"));
        timer = setTimeout(load, AGAIN_MS);
        return;
      }
      replace(holder, problem(error, load));
    }
  }
  load();
  return {
    title: "Trace",
    element: el("section", {}, el("div", { class: "head" }, el("h1", {}, "Trace"), copyable(route.id, "trace id"), said), holder),
    close: () => clearTimeout(timer),
  };
}
