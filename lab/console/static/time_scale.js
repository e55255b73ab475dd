// Time to pixels, with long idle stretches folded: a call sets up in 200 ms and then talks for minutes.

const FOLD_SHARE = 0.12; // an idle stretch longer than this share of the whole is folded
const FOLD_MS = 120; // and longer than this
const FOLDED = 0.06; // to this share of the width

/** Scale over `edges` (times in ms); `fold` false keeps it even. {at(ms) -> 0..1, folds: [{from, to}], span} */
export function timeScale(edges, fold = true) {
  const times = [...new Set(edges)].sort((a, b) => a - b);
  const begin = times[0] ?? 0;
  const span = Math.max((times.at(-1) ?? 0) - begin, 0.001);
  const folds = [];
  for (let i = 1; fold && i < times.length; i++) {
    const idle = times[i] - times[i - 1];
    if (!(idle > FOLD_MS && idle > span * FOLD_SHARE)) continue;
    const last = folds.at(-1);
    if (last && times[i - 1] - last.to < FOLD_MS / 4) last.to = times[i]; // a moment between two pauses is no break
    else folds.push({ from: times[i - 1], to: times[i] });
  }
  const idle = folds.reduce((sum, { from, to }) => sum + to - from, 0);
  const busy = Math.max(span - idle, 0.001);
  const perMs = (1 - FOLDED * folds.length) / busy;
  return {
    span,
    folds,
    at(ms) {
      let x = 0;
      let here = begin;
      for (const { from, to } of folds) {
        if (ms <= from) break;
        x += (from - here) * perMs + (Math.min(ms, to) - from) * (FOLDED / (to - from));
        here = Math.min(ms, to);
      }
      return Math.max(0, Math.min(1, x + Math.max(0, ms - here) * perMs));
    },
  };
}

/** About `many` round values from `low` to `high`. */
export function ticks(low, high, many = 5) {
  const range = high - low;
  if (!(range > 0)) return [low];
  const rough = range / many;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((k) => k >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-6; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}
