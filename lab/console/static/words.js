// How values read: times, durations, states. One place, so that every view says the same.

const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "2-digit", month: "short" });
const NUMBER = new Intl.NumberFormat("en-GB");

/** "10:31:24", with the day in front when it is not today; `at` in ms since the epoch. */
export function clock(at) {
  if (!at) return "–";
  const then = new Date(at);
  const today = then.toDateString() === new Date().toDateString();
  return today ? CLOCK.format(then) : `${DAY.format(then)} ${CLOCK.format(then)}`;
}

/** "208 ms", "2.17 s", "4 min 10 s". */
export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1) return `${ms.toFixed(2)} ms`;
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3600)} h`;
}

/** A count with separated thousands, or what there is instead. */
export function count(value) {
  return value === null || value === undefined ? "–" : NUMBER.format(value);
}

/** A measured value, as short as it can be said. */
export function measure(value, unit = "") {
  if (value === null || value === undefined) return "–";
  const shown = Number.isInteger(value) ? NUMBER.format(value) : Math.abs(value) < 10 ? value.toFixed(2) : value.toFixed(1);
  return unit ? `${shown} ${unit}` : shown;
}

/** "1 call", "3 calls". */
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** "a", "a and b", "a, b and c". */
export function listed(names) {
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}

// A sign beside every colour: nobody has to tell green from red.
const NODE_SIGNS = { serving: "●", starting: "◐", fallen: "▲", failed: "✕", stopped: "○" };
export const nodeSign = (state) => NODE_SIGNS[state] ?? "?";

/** Tone of a state or result, the name of a class: good, busy, bad or off. */
export function tone(state) {
  if (["serving", "established", "granted", "registered", "talking", "accepted", "applied"].includes(state)) return "good";
  if (["starting", "setup", "refused", "planned"].includes(state)) return "busy";
  if (["fallen", "failed"].includes(state)) return "bad";
  return "off";
}

/** The parties of a call as short as they can be named. A call that a UE itself refused never said whom it was for. */
export const caller = (call) => call.from_user || call.from || "?";
export const callee = (call) => call.to_user || call.to || "?";

const RESULT_SIGNS = { established: "✓", refused: "⊘", failed: "✕", cancelled: "–" };

/** Sign, words and tone of how a call stands. */
export function standing(call) {
  if (call.state === "setup") return { sign: "◐", words: "setting up", tone: "busy" };
  if (call.state === "talking") return { sign: "▶", words: "in the call", tone: "good" };
  return { sign: RESULT_SIGNS[call.result] ?? "?", words: call.result || "unknown", tone: tone(call.result) };
}
