// Topology: every instance with its health, grouped by network, and what one of them is up to.

import { announce, el, fitted, onWidth, replace, svg, widthOf } from "./dom.js";
import { roving } from "./keys.js";
import { lab } from "./lab.js";
import { nodePanel } from "./node_panel.js";
import { badge, button, empty, table, tabList, toggles } from "./parts.js";
import { go, link, note } from "./route.js";
import { layOut, linksToDraw, route, rowOf, shownAtFirst } from "./topology_layout.js";
import { clock, nodeSign, plural, tone } from "./words.js";

const KIND_WORDS = {
  nrf: "NRF", hss: "HSS", cscf: "I/S-CSCF", pcscf: "P-CSCF", imsagw: "IMS-AGW", bsf: "BSF", kms: "KMS", ue: "UE", lab: "operator",
};
const ZONE_WORDS = { access: "Access network", home: "Home network", common: "For all" };
const TOO_NARROW = 700; // for a drawing at first sight, pixels
const OFF_AT_FIRST = ["Ua", "Ub"]; // from each UE across the whole drawing: on request

const font = () => getComputedStyle(document.body).fontFamily;
const shownNodes = () => lab.current.nodes.filter((node) => node.kind !== "lab"); // as in imslab status
const kindWords = (kind) => KIND_WORDS[kind] ?? kind;

function zoneTitle(name) {
  const [kind, ...rest] = name.split(" ");
  return [ZONE_WORDS[kind], ...rest].join(" ");
}

export function loadWords(load) {
  return load ? `${load.streams} of ${load.streams_max} streams` : "";
}

export function topologyView(first) {
  let chosen = first.id;
  const heading = el("p", {});
  const drawing = el("div", { class: "card flush drawing" });
  const panel = el("aside", { class: "card panel", "aria-label": "Node" });
  const switches = el("div", {});
  const beside = el("div", { class: "beside" });
  let details = null;
  let shownPoints = null;
  let width = 0;
  let known = "";
  let kind = first.with.as ?? (innerWidth < TOO_NARROW ? "table" : "drawing");
  let showFocus = () => {};
  let entry = "";
  let holder = null;

  const tabs = tabList(
    [{ name: "drawing", title: "Drawing" }, { name: "table", title: "Table" }],
    kind,
    (name, into) => {
      kind = name;
      holder = into;
      note({ as: name === "table" || innerWidth < TOO_NARROW ? name : "" });
      replace(holder, name === "table" ? el("div", { class: "card flush" }) : [switches, drawing]);
      redraw();
    },
    "How the topology is shown",
  );
  const element = el("section", { class: "topology" }, el("div", { class: "head" }, el("h1", {}, "Topology"), heading), beside);
  replace(beside, el("div", {}, tabs.list, tabs.panel));

  function summarize() {
    const nodes = shownNodes();
    const bad = nodes.filter((node) => node.state !== "serving");
    const all = plural(nodes.length, "node");
    replace(heading, bad.length
      ? badge(nodeSign(bad[0].state), `${bad.length} of ${all} not serving: ${bad.map((node) => node.instance).join(", ")}`, tone(bad[0].state) === "good" ? "busy" : tone(bad[0].state))
      : badge("●", `all ${all} serve`, "good"));
  }

  function buildSwitches() {
    const names = [...new Set(lab.current.links.map((one) => one.interface))].sort();
    const key = names.join();
    if (key === known) return;
    known = key;
    shownPoints = shownAtFirst(lab.current.links, OFF_AT_FIRST);
    replace(switches, el("div", { class: "filters" }, el("span", { class: "dim" }, "Reference points"),
      toggles("Reference points", names, shownPoints, (on) => {
        shownPoints = on;
        draw();
      })));
  }

  function draw() {
    if (!width || kind !== "drawing") return;
    const nodes = shownNodes();
    if (!nodes.length) return replace(drawing, empty("No node yet", "The lab is starting; nodes appear here one by one."));
    const focused = drawing.contains(document.activeElement) ? document.activeElement.dataset.node : null;
    const { width: full, height, zones, boxes } = layOut(nodes, width - 24);
    const lines = route(boxes, linksToDraw(lab.current.links, shownPoints));
    const box = (name) => boxes.find((one) => one.name === name || one.instances.includes(name));
    const chosenBox = chosen ? box(chosen)?.name : null;
    const near = (line) => !chosenBox || line.a === chosenBox || line.b === chosenBox;
    // One tab stop: the chosen node, else the first one reads.
    const [topmost] = [...boxes].sort((a, b) => a.y - b.y || a.x - b.x);
    entry = box(chosen) ? chosen : topmost.instances[0];
    const picture = svg(
      "svg",
      { width: full, height: height + 2, viewBox: `-1 -1 ${full + 2} ${height + 4}`, class: "topology-drawing", role: "group", "aria-label": "Nodes of the lab; arrow keys move between them, Enter opens one" },
      zones.map((zone) => svg("g", { class: `zone ${zone.name.split(" ")[0]}` },
        svg("rect", { x: zone.x, y: zone.y, width: zone.width, height: zone.height, rx: 8 }),
        svg("text", { x: zone.x + 14, y: zone.y + 19 }, zoneTitle(zone.name)))),
      lines.map((line) => svg("path", { class: `link ${near(line) ? "" : "far"}`, d: line.path })),
      lines.filter(near).map((line) => svg("text", { class: "link-label", x: line.at.x, y: line.at.y + 4, "text-anchor": "middle" }, line.label,
        svg("title", {}, `${line.label} between ${line.a} and ${line.b}, ${line.transport}`))),
      boxes.map((one) => drawBox(one)),
    );
    replace(drawing, picture);
    if (focused) drawing.querySelector(`[data-node="${CSS.escape(focused)}"]`)?.focus();
  }

  function drawBox(box) {
    const many = box.instances.length > 1;
    const load = many ? null : lab.node(box.instances[0]).load;
    const about = [kindWords(box.kind), many && `×${box.instances.length}`].filter(Boolean).join(" ");
    const small = `10.5px ${font()}`;
    const long = load ? `${about} · ${plural(load.streams, "stream")}` : about;
    const caption = widthOf(long, small) < box.width - 16 ? long : load ? `${about} · ${load.streams}` : about;
    const rows = box.instances.map((instance, index) => {
      const node = lab.node(instance);
      const { x, y, width: wide, height } = rowOf(box, index);
      const words = [`${instance}, ${kindWords(node.kind)}`, node.state, node.reason, loadWords(node.load), node.restarts ? plural(node.restarts, "restart") : ""];
      const shown = node.state === "serving" ? (many && node.load ? String(node.load.streams) : "") : node.state;
      const bold = `600 12px ${font()}`;
      const fits = widthOf(instance, bold) + widthOf(shown) < wide - 44; // the sign says it too; the name comes first
      return svg(
        "g",
        {
          class: `node ${tone(node.state)} ${instance === chosen ? "chosen" : ""}`, role: "button", tabindex: instance === entry ? 0 : -1, "data-node": instance,
          "aria-label": words.filter(Boolean).join(", "), "aria-pressed": String(instance === chosen), on: { click: () => choose(instance) },
        },
        svg("rect", { class: "hit", x: x + 3, y: y + 1, width: wide - 6, height: height - 2, rx: 4 }),
        svg("text", { class: "sign", x: x + 16, y: y + 16, "text-anchor": "middle" }, nodeSign(node.state)),
        svg("text", { class: "name", x: x + 28, y: y + 16 }, fitted(instance, wide - 36, bold)),
        shown && fits && svg("text", { class: "aside", x: x + wide - 10, y: y + 16, "text-anchor": "end" }, shown),
      );
    });
    return svg("g", { class: "nf" },
      svg("rect", { class: "frame", x: box.x, y: box.y, width: box.width, height: box.height, rx: 6 }),
      svg("text", { class: "kind", x: box.x + 10, y: box.y + 13 }, fitted(caption, box.width - 16, small)),
      rows);
  }

  function drawTable() {
    if (kind !== "table") return;
    replace(holder, el("div", { class: "card flush" }, table("Nodes of the lab", [
      { head: "node", cell: (node) => button(node.instance, () => choose(node.instance), { class: "quiet", "data-node": node.instance }) },
      { head: "state", cell: (node) => badge(nodeSign(node.state), node.state, tone(node.state)) },
      { head: "kind", cell: (node) => kindWords(node.kind) },
      { head: "network", cell: (node) => node.access_network || node.home_domains.join(", ") || "all" },
      { head: "restarts", class: "num", cell: (node) => node.restarts },
      { head: "since", class: "nowrap", cell: (node) => clock(node.since) },
      { head: "load", cell: (node) => loadWords(node.load) },
      { head: "reason", cell: (node) => node.reason },
    ], shownNodes())));
  }

  function redraw() {
    if (!lab.current) return;
    summarize();
    buildSwitches();
    draw();
    drawTable();
  }

  function choose(instance) {
    go(link("topology", instance === chosen ? "" : instance, { as: kind === "table" || innerWidth < TOO_NARROW ? kind : "" }));
  }

  function showPanel() {
    details?.close();
    details = null;
    panel.remove();
    beside.classList.toggle("alone", !chosen);
    if (!chosen) return;
    details = nodePanel(chosen, () => {
      const was = chosen;
      go(link("topology"));
      showFocus(was);
    });
    replace(panel, details.element);
    beside.append(panel);
    announce(`${chosen}: ${lab.node(chosen)?.state ?? "unknown"}`);
  }

  const nodesDrawn = () => [...drawing.querySelectorAll(".node")];
  const focus = roving(drawing, {
    items: nodesDrawn,
    onOpen: (item) => choose(item.dataset.node),
    keys: Object.fromEntries(["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"].map((key) => [key, () => {}])),
  });
  // In a plane the arrows go to the nearest node in their direction, not to the next in the list.
  drawing.addEventListener("keydown", (event) => {
    const way = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
    const from = event.target.closest?.(".node");
    if (!way || !from) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    focus(nearest(from, nodesDrawn(), way));
  }, { capture: true });
  showFocus = (instance) => focus(nodesDrawn().find((item) => item.dataset.node === instance));

  const stop = [
    onWidth(drawing, (now) => {
      width = now;
      draw();
    }),
    lab.onChange(redraw),
  ];
  redraw();
  showPanel();
  return {
    title: "Topology",
    element,
    update(next) {
      if (next.view !== "topology") return false;
      chosen = next.id;
      if (next.with.as === "table" || kind === "table") tabs.choose(next.with.as ?? (innerWidth < TOO_NARROW ? "table" : "drawing"));
      redraw();
      showPanel();
      return true;
    },
    close() {
      details?.close();
      for (const end of stop) end();
    },
  };
}

/** The item whose middle is nearest to that of `from` in the direction `[dx, dy]`. */
function nearest(from, items, [dx, dy]) {
  const middle = (item) => {
    const box = item.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  };
  const [x, y] = middle(from);
  let best = null;
  let least = Infinity;
  for (const item of items) {
    const [a, b] = middle(item);
    const along = (a - x) * dx + (b - y) * dy;
    if (item === from || along < 4) continue;
    const away = Math.abs((a - x) * dy) + Math.abs((b - y) * dx);
    if (along + 2.5 * away < least) [best, least] = [item, along + 2.5 * away];
  }
  return best ?? from;
}
