// The calls a filter lets through, newest first: pages from the server, changes from the event stream.

import { api } from "./api.js";
import { live } from "./live.js";

const PAGE = 200;

const begins = (text, start) => (text ?? "").toLowerCase().startsWith(start);

/** Whether `call` passes `filters` ({q, user, result, security, state}), as the server would judge it. */
export function passes(call, { q = "", user = "", result = "", security = "", state = "" }) {
  if (user && ![call.from_user, call.to_user, call.from, call.to].includes(user)) return false;
  if (result && call.result !== result) return false;
  if (security && call.security !== security) return false;
  if (state && !(state === "live" ? call.state !== "ended" : call.state === state)) return false;
  const start = q.trim().toLowerCase();
  if (!start) return true;
  const names = [call.from_user, call.to_user, call.from, call.to].map((name) => (name ?? "").replace(/^(sips?|tel):/, ""));
  return [call.call_id, call.trace_id, call.from, call.to, ...names].some((text) => begins(text, start));
}

/** `onChange({shifted})` is called when rows changed; `shifted` rows came in at the top. */
export function callList(filters, onChange) {
  let rows = [];
  let known = new Set();
  let cursor = null;
  let loading = null;
  let failed = null;
  let generation = 0;
  let total = 0;

  async function load(from) {
    const mine = generation;
    try {
      const page = await api.calls({ ...filters, limit: PAGE, cursor: from });
      if (mine !== generation) return;
      const fresh = page.calls.filter((call) => !known.has(call.call_id));
      for (const call of fresh) known.add(call.call_id);
      rows.push(...fresh);
      cursor = page.cursor;
      total = cursor === null ? rows.length : Math.max(page.total, rows.length);
      failed = null;
    } catch (error) {
      if (mine !== generation) return;
      failed = error;
    } finally {
      if (mine === generation) loading = null;
    }
    onChange({ shifted: 0 });
  }

  function restart() {
    generation += 1;
    rows = [];
    known = new Set();
    cursor = null;
    total = 0;
    return (loading = load(null));
  }

  function take(call) {
    if (loading && !rows.length) return; // the page under way has it
    const fits = passes(call, filters);
    if (known.has(call.call_id)) {
      const at = rows.findIndex((row) => row.call_id === call.call_id);
      if (fits) {
        rows[at] = call;
      } else {
        rows.splice(at, 1);
        known.delete(call.call_id);
        total -= 1;
      }
      onChange({ shifted: 0 });
    } else if (fits) {
      const at = rows.findIndex((row) => row.began <= call.began);
      if (at < 0 && cursor !== null) return; // older than what is here: its page will bring it
      rows.splice(at < 0 ? rows.length : at, 0, call);
      known.add(call.call_id);
      total += 1;
      onChange({ shifted: at === 0 ? 1 : 0 });
    }
  }

  const stop = [live.on("call", take), live.on("resumed", restart)];
  restart();
  return {
    get total() {
      return total;
    },
    get loaded() {
      return !(loading && !rows.length);
    },
    get failed() {
      return failed;
    },
    row: (i) => rows[i] ?? null,
    need(i) {
      if (i >= rows.length && cursor !== null && !loading && !failed) loading = load(cursor);
    },
    filter(next) {
      filters = next;
      return restart();
    },
    restart,
    close() {
      generation += 1;
      for (const end of stop) end();
    },
  };
}
