// Two call flows row by row: what both have stands beside each other, what one has alone stands beside nothing.

const CELLS = 4_000_000; // of the table below; longer flows are aligned without their middle

/** What makes two steps the same: who says what to whom. */
export const signature = (step) => [step.kind, step.from, step.to, step.kind === "media" ? "" : bare(step.label)].join("|");

/** Whether two steps of one signature say different things. */
export const differ = (a, b) => a.label !== b.label || (a.kind === "media" && a.protection !== b.protection) || (a.kind !== "sip" && a.kind !== "media" && a.outcome !== b.outcome);

/** A label without what is allowed to differ within one step: suites of a decision, MIKEY in a message. */
function bare(label) {
  return label.replace(/ \+(SDP|MIKEY)/g, "").replace(/ (AEAD_|AES_|F8_)\S+/g, "").replace(/ (tag|CS) \S+/g, "");
}

/** Rows {a, b} of two lists of steps; one of both may be null. Longest common subsequence over signatures. */
export function align(left, right) {
  const [x, y] = [left.map(signature), right.map(signature)];
  if (x.length * y.length > CELLS) return left.map((a, at) => ({ a, b: right[at] ?? null })).concat(right.slice(left.length).map((b) => ({ a: null, b })));
  const best = Array.from({ length: x.length + 1 }, () => new Uint16Array(y.length + 1));
  for (let i = x.length - 1; i >= 0; i--) {
    for (let j = y.length - 1; j >= 0; j--) best[i][j] = x[i] === y[j] ? best[i + 1][j + 1] + 1 : Math.max(best[i + 1][j], best[i][j + 1]);
  }
  const rows = [];
  let [i, j] = [0, 0];
  while (i < x.length || j < y.length) {
    if (i < x.length && j < y.length && x[i] === y[j]) rows.push({ a: left[i++], b: right[j++] });
    else if (j >= y.length || (i < x.length && best[i + 1][j] >= best[i][j + 1])) rows.push({ a: left[i++], b: null });
    else rows.push({ a: null, b: right[j++] });
  }
  return rows;
}

/** Rows for the two drawings, with marks: "only" for what one has alone, "differs" for what both have differently. */
export function markedRows(rows) {
  const mark = ({ a, b }) => (!a || !b ? "only" : differ(a, b) ? "differs" : null);
  const side = (which) => rows.map((row) => (row[which] ? { step: row[which], mark: mark(row) } : { absent: true }));
  return { a: side("a"), b: side("b"), counts: { only_a: rows.filter(({ b }) => !b).length, only_b: rows.filter(({ a }) => !a).length, differing: rows.filter((row) => row.a && row.b && differ(row.a, row.b)).length } };
}
