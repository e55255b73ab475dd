// Where everything of a lab stands: home networks above, access networks below them, UEs at the foot. Pure arithmetic.

// Pixels: width of a network function, space between those of a row (for labels of links), padding and space of zones.
const ROOMY = { box: 150, across: 36, pad: 14, apart: 44 };
const COMPACT = { box: 124, across: 26, pad: 10, apart: 28 };
const CAPTION = 17;
const ROW = 24; // one instance
const DOWN = 36; // between rows
const TITLE = 26;
const STOREYS_APART = 62;
const COMPACT_BELOW = 1380;
const STACKED_BELOW = 880; // narrower windows have one zone below the other
const EDGE_KINDS = ["pcscf", "imsagw"];
// Rows of a zone, top to bottom; what is named in none goes to the first.
const HOME_ROWS = [["hss", "bsf", "kms"], ["cscf"]];
const ACCESS_ROWS = [EDGE_KINDS, ["ue"]];

/** One box for the instances of a network function, in the zone it belongs to. */
export function boxesOf(nodes) {
  const boxes = new Map();
  for (const node of nodes) {
    const name = node.nf || node.instance;
    const box = boxes.get(name) ?? { name, kind: node.kind, zone: zoneOf(node), instances: [] };
    box.instances.push(node.instance);
    boxes.set(name, box);
  }
  for (const box of boxes.values()) box.height = CAPTION + ROW * box.instances.length + 5;
  return [...boxes.values()];
}

function zoneOf(node) {
  const belongsToAccess = node.access_network && (node.kind === "ue" || EDGE_KINDS.includes(node.kind) || !node.home_domains.length);
  if (belongsToAccess) return `access ${node.access_network}`;
  return node.home_domains.length === 1 ? `home ${node.home_domains[0]}` : "common";
}

/** Boxes of a zone as rows of at most `across`; `mirrored` turns each row round, so that neighbours face each other. */
function rowsOf(boxes, kinds, across, mirrored) {
  const rank = (row, { kind }) => (row.includes(kind) ? row.indexOf(kind) : row.length);
  const rows = [];
  kinds.forEach((row, index) => {
    const named = (box) => row.includes(box.kind) || (index === 0 && !kinds.flat().includes(box.kind));
    const here = boxes.filter(named).sort((a, b) => rank(row, a) - rank(row, b));
    const ordered = mirrored && here.length <= across ? here.reverse() : here;
    for (let at = 0; at < ordered.length; at += across) rows.push(ordered.slice(at, at + across));
  });
  return rows;
}

/** Zones and boxes with their places in a drawing `width` pixels wide (or wider, where that is too narrow). */
export function layOut(nodes, width) {
  const boxes = boxesOf(nodes);
  const { box: boxWidth, across: between, pad, apart } = width < COMPACT_BELOW ? COMPACT : ROOMY;
  for (const box of boxes) box.width = boxWidth;
  const named = (kind) => [...new Set(boxes.map((box) => box.zone).filter((zone) => zone.startsWith(kind)))].sort();
  const aside = boxWidth + 2 * pad;
  const full = Math.max(width - 2, aside);
  const zones = [];
  let y = 0;

  /** One storey of the drawing: `names` share the width, `narrow` (if any) stands at its right end. */
  function storey(names, narrow, kinds) {
    if (!names.length && !narrow.length) return;
    const room = full - (narrow.length && names.length ? aside + apart : 0);
    const share = names.length ? (room - apart * (names.length - 1)) / names.length : 0;
    const here = [...names.map((name, at) => ({ name, x: at * (share + apart), width: share })), ...narrow.map((name) => ({ name, x: names.length ? full - aside : 0, width: names.length ? aside : full }))];
    here.forEach((zone, at) => {
      const across = Math.max(1, Math.floor((zone.width - 2 * pad + between) / (boxWidth + between)));
      zone.rows = rowsOf(boxes.filter((box) => box.zone === zone.name), kinds, across, at % 2 === 1);
    });
    // Rows of neighbouring zones stand at one height, so that links between them run straight.
    let top = y + TITLE + 7;
    for (let row = 0; here.some((zone) => row < zone.rows.length); row++) {
      const tallest = Math.max(...here.map((zone) => Math.max(0, ...(zone.rows[row] ?? []).map((box) => box.height))));
      for (const { x, width: wide, rows } of here) {
        const line = rows[row] ?? [];
        const taken = line.length * (boxWidth + between) - between;
        line.forEach((box, at) => Object.assign(box, { x: x + (wide - taken) / 2 + at * (boxWidth + between), y: top }));
      }
      top += tallest + DOWN;
    }
    const height = top - DOWN + 14 - y;
    for (const { name, x, width: wide } of here) zones.push({ name, x, y, width: wide, height });
    y += height + STOREYS_APART;
  }
  if (width < STACKED_BELOW) {
    for (const name of [...named("home"), ...named("common")]) storey([name], [], HOME_ROWS);
    for (const name of named("access")) storey([name], [], ACCESS_ROWS);
  } else if (width < COMPACT_BELOW) {
    storey(named("home"), [], HOME_ROWS);
    storey(named("access"), [], ACCESS_ROWS);
    y -= STOREYS_APART - apart; // no links lead there
    storey([], named("common"), HOME_ROWS);
  } else {
    storey(named("home"), named("common"), HOME_ROWS);
    storey(named("access"), [], ACCESS_ROWS);
  }
  return { width: full, height: y - STOREYS_APART, zones, boxes };
}

/** Interfaces that are drawn at first: not those of `later`, nor those of which most links are drawn on request only. */
export function shownAtFirst(links, later) {
  const off = new Set([...later, ...links.filter((one) => one.quiet).map((one) => one.interface)]);
  return new Set(links.map((one) => one.interface).filter((name) => !off.has(name)));
}

/** Links to draw where the interfaces `shown` are asked for, and those that are the only ones of their node. */
export function linksToDraw(links, shown) {
  const partlyQuiet = new Set(links.filter((one) => one.quiet).map((one) => one.interface));
  return links.filter((one) => shown.has(one.interface) || (!one.quiet && partlyQuiet.has(one.interface)));
}

/** Where instance number `index` of a box stands. */
export const rowOf = (box, index) => ({ x: box.x, y: box.y + CAPTION + ROW * index, width: box.width, height: ROW });

/** Links between boxes, those of several instances drawn once: [{a, b, interfaces, transport, path, at}]. */
export function route(boxes, links) {
  const home = new Map(boxes.flatMap((box) => box.instances.map((instance) => [instance, box])));
  for (const box of boxes) home.set(box.name, box);
  const merged = new Map();
  for (const { a, b, interface: point, transport } of links) {
    const [from, to] = [home.get(a), home.get(b)];
    if (!from || !to || from === to) continue;
    const key = [from.name, to.name].sort().join(" ");
    const line = merged.get(key) ?? { from, to, points: new Set(), transport };
    line.points.add(point);
    merged.set(key, line);
  }
  const lines = [...merged.values()];
  for (const line of lines) line.ends = facing(line.from, line.to);
  for (const box of boxes) spread(box, lines);
  const taken = boxes.map((box) => ({ x: box.x, y: box.y, width: box.width, height: box.height }));
  return lines.map((line) => finish(line, taken));
}

/** Sides of two boxes that a link joins: across within a row, else from foot to head. */
function facing(a, b) {
  const sameRow = a.y < b.y + b.height && b.y < a.y + a.height;
  if (sameRow) return b.x > a.x ? ["right", "left"] : ["left", "right"];
  return b.y > a.y ? ["bottom", "top"] : ["top", "bottom"];
}

/** Gives every link of a side of `box` a place of its own there, in the order of the other ends. */
function spread(box, lines) {
  for (const side of ["left", "right", "top", "bottom"]) {
    const here = [];
    for (const line of lines) {
      if (line.from === box && line.ends[0] === side) here.push([line, "start", line.to]);
      if (line.to === box && line.ends[1] === side) here.push([line, "end", line.from]);
    }
    const upright = side === "left" || side === "right";
    here.sort(([, , one], [, , other]) => (upright ? one.y - other.y : one.x - other.x));
    here.forEach(([line, which], index) => {
      const share = (index + 1) / (here.length + 1);
      line[which] = upright
        ? { x: side === "left" ? box.x : box.x + box.width, y: box.y + box.height * share }
        : { x: box.x + box.width * share, y: side === "top" ? box.y : box.y + box.height };
    });
  }
}

function finish({ from, to, points, transport, start, end, ends }, taken) {
  const upright = ends[0] === "top" || ends[0] === "bottom";
  const way = upright ? end.y - start.y : end.x - start.x;
  const bend = Math.sign(way) * Math.max(Math.abs(way) / 2, Math.min(28, Math.abs(way)));
  const one = upright ? { x: start.x, y: start.y + bend } : { x: start.x + bend, y: start.y };
  const two = upright ? { x: end.x, y: end.y - bend } : { x: end.x - bend, y: end.y };
  const label = [...points].sort().join(" ");
  const size = { width: label.length * 7 + 8, height: 15 };
  let best = null;
  for (const t of [0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74, 0.18, 0.82]) {
    const at = onCurve(start, one, two, end, t);
    const spot = { x: at.x - size.width / 2, y: at.y - size.height / 2, ...size };
    best ??= { at, spot };
    if (taken.some((other) => overlap(spot, other))) continue;
    best = { at, spot };
    break;
  }
  taken.push(best.spot);
  return {
    a: from.name, b: to.name, label, transport, at: best.at,
    path: `M${start.x} ${start.y}C${one.x} ${one.y} ${two.x} ${two.y} ${end.x} ${end.y}`,
  };
}

function onCurve(a, b, c, d, t) {
  const u = 1 - t;
  const mix = (k) => u ** 3 * a[k] + 3 * u * u * t * b[k] + 3 * u * t * t * c[k] + t ** 3 * d[k];
  return { x: mix("x"), y: mix("y") };
}

const overlap = (a, b) => a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
