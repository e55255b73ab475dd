// What a reader with less sight, or without a pointer, meets: run in the page, returns faults as sentences.
() => {
  const faults = [];
  const shown = (node) => {
    const style = getComputedStyle(node);
    const box = node.getBoundingClientRect();
    return style.visibility !== "hidden" && style.display !== "none" && box.width > 1 && box.height > 1 && !node.closest(".unseen, [hidden], .skip");
  };
  const where = (node) => `${node.tagName.toLowerCase()}${node.getAttribute("class") ? "." + node.getAttribute("class").trim().split(/\s+/).join(".") : ""} "${(node.textContent || "").trim().slice(0, 40)}"`;

  // Colours, as numbers: the page paints them once, so every notation is understood.
  const pen = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  const known = new Map();
  const colour = (text) => {
    if (!known.has(text)) {
      pen.clearRect(0, 0, 1, 1);
      pen.fillStyle = text;
      pen.fillRect(0, 0, 1, 1);
      known.set(text, [...pen.getImageData(0, 0, 1, 1).data]);
    }
    return known.get(text);
  };
  const light = ([r, g, b]) => {
    const part = (v) => ((v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const contrast = (one, other) => {
    const [high, low] = [light(one), light(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const ground = (node) => {
    for (let here = node; here; here = here.parentElement) {
      const found = colour(getComputedStyle(here).backgroundColor);
      if (found[3] > 250) return found;
    }
    return colour("white");
  };
  // Behind a text of a drawing: its own halo, else the last filled shape of its group under it, else the page.
  const behind = (text) => {
    const style = getComputedStyle(text);
    if (style.stroke !== "none" && style.paintOrder.startsWith("stroke")) return colour(style.stroke);
    const box = text.getBoundingClientRect();
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    let found = null;
    for (const shape of text.ownerSVGElement.querySelectorAll("rect")) {
      if (text.compareDocumentPosition(shape) & Node.DOCUMENT_POSITION_FOLLOWING) break;
      const area = shape.getBoundingClientRect();
      const fill = getComputedStyle(shape).fill;
      if (fill === "none" || fill.startsWith("url") || x < area.x || x > area.right || y < area.y || y > area.bottom) continue;
      if (colour(fill)[3] > 250) found = colour(fill);
    }
    return found ?? ground(text.ownerSVGElement);
  };

  let texts = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !shown(node) || ["SCRIPT", "STYLE", "NOSCRIPT", "OPTION", "TITLE", "title"].includes(node.tagName)) continue;
    const style = getComputedStyle(node);
    const drawn = node instanceof SVGElement;
    const ratio = contrast(colour(drawn ? style.fill : style.color), drawn ? behind(node) : ground(node));
    texts += 1;
    if (ratio < 4.5) faults.push(`contrast ${ratio.toFixed(2)}: ${where(node)}`);
  }
  if (texts < 10) faults.push(`only ${texts} texts were looked at`);

  const nameOf = (node) => {
    const by = node.getAttribute("aria-labelledby");
    if (by) return by.split(/\s+/).map((id) => document.getElementById(id)?.textContent ?? "").join(" ").trim();
    const label = node.getAttribute("aria-label");
    if (label !== null) return label.trim();
    if (node.labels?.length) return [...node.labels].map((one) => one.textContent).join(" ").trim();
    return (node.textContent || "").trim();
  };
  const controls = "a, button, input, select, textarea, summary, [tabindex='0'], [role=button], [role=tab], [role=option], [role=treeitem], [role=grid], [role=listbox], [role=tree], [role=img], [role=dialog][open], nav, aside, table";
  for (const node of document.querySelectorAll(controls)) {
    if (!shown(node) || node === document.body) continue;
    if (node.tagName === "TABLE" ? !node.caption?.textContent.trim() : !nameOf(node)) faults.push(`no name: ${where(node)}`);
    if (node.matches("input, select") && !node.labels?.length && !node.getAttribute("aria-label")) faults.push(`no label: ${where(node)}`);
  }
  const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
  for (const id of new Set(ids.filter((id, at) => ids.indexOf(id) !== at))) faults.push(`id twice: ${id}`);
  for (const attribute of ["aria-controls", "aria-labelledby", "aria-describedby", "aria-activedescendant"]) {
    for (const node of document.querySelectorAll(`[${attribute}]`)) {
      for (const id of node.getAttribute(attribute).split(/\s+/)) if (!document.getElementById(id)) faults.push(`${attribute} points nowhere: ${where(node)}`);
    }
  }
  if (document.querySelectorAll("h1").length !== 1) faults.push(`${document.querySelectorAll("h1").length} first headings`);
  if (document.querySelectorAll("main").length !== 1) faults.push("no single main");
  const wide = document.documentElement.scrollWidth - innerWidth;
  if (wide > 0) faults.push(`the page itself scrolls sideways by ${wide} px`);
  for (const group of document.querySelectorAll("[role=listbox], [role=tree], [role=tablist]")) {
    const stops = [...group.querySelectorAll("[role=option], [role=treeitem], [role=tab]")].filter((node) => node.tabIndex === 0).length;
    if (stops !== 1) faults.push(`${stops} tab stops in ${where(group).slice(0, 60)}`);
  }
  return [...new Set(faults)];
}
