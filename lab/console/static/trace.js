// A trace that belongs to no call, or whose call one does not know: a registration, a ticket request.

import { api } from "./api.js";
import { el, replace } from "./dom.js";
import { copyable, problem, waiting } from "./parts.js";
import { waterfall } from "./waterfall.js";
import { clock } from "./words.js";

export function traceView(route) {
  const holder = el("div", {}, waiting());
  const said = el("p", { class: "dim" });
  async function load() {
    try {
      const trace = await api.trace(route.id);
      replace(said, trace.began ? `began ${clock(trace.began)}` : "");
      replace(holder, waterfall(trace, route.with.span));
    } catch (error) {
      replace(holder, problem(error, load));
    }
  }
  load();
  return {
    title: "Trace",
    element: el("section", {}, el("div", { class: "head" }, el("h1", {}, "Trace"), copyable(route.id, "trace id"), said), holder),
  };
}
