// Elements from data. Text only ever becomes a text node, so that nothing a SIP message says is taken for markup.

const SVG = "http://www.w3.org/2000/svg";

// Control characters and those that turn the direction of text: shown, because a display name may hide behind them.
const INVISIBLE = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** Text with every invisible character written as its code point. */
export function visible(text) {
  return String(text ?? "").replace(INVISIBLE, (found) => `\\u{${found.codePointAt(0).toString(16)}}`);
}

function set(node, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name === "on") {
    for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
  } else if (name === "value" || name === "checked" || name === "disabled" || name === "selected") {
    node[name] = value;
  } else if (/^(on|style$|src|srcdoc|formaction|action)/.test(name)) {
    throw new Error(`attribute ${name} is never made from data`);
  } else if (name === "href" && !String(value).startsWith("#")) {
    throw new Error("links stay inside the page");
  } else {
    node.setAttribute(name, value === true ? "" : typeof value === "string" ? visible(value) : value);
  }
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) set(node, name, value);
  for (const child of children.flat(3)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(visible(child)));
  }
  return node;
}

/** An HTML element; `attributes.on` holds its listeners, children are nodes, text or lists of them. */
export const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

/** An SVG element. */
export const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/** Replaces what `node` holds. */
export function replace(node, ...children) {
  node.replaceChildren();
  return fill(node, {}, children);
}

let pen = null;

/** Width of `text` in pixels as the page draws it; `font` as in CSS. */
export function widthOf(text, font = "12px " + getComputedStyle(document.body).fontFamily) {
  pen ??= document.createElement("canvas").getContext("2d");
  pen.font = font;
  return pen.measureText(visible(text)).width;
}

/** `text`, cut with an ellipsis so that it is at most `width` pixels wide. */
export function fitted(text, width, font) {
  const shown = visible(text);
  if (widthOf(shown, font) <= width) return shown;
  let [low, high] = [0, shown.length];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (widthOf(shown.slice(0, middle) + "…", font) <= width) low = middle;
    else high = middle - 1;
  }
  return low ? shown.slice(0, low) + "…" : "";
}

let lastId = 0;

/** An id that no other element of the page has. */
export const newId = (prefix) => `${prefix}-${++lastId}`;

/** Says `text` to a screen reader without moving the focus. */
export function announce(text) {
  replace(document.getElementById("announcer"), text);
}

/** Calls `draw(width)` now and whenever the width of `node` changes; returns what ends it. */
export function onWidth(node, draw) {
  let width = 0;
  const observer = new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (now > 0 && now !== width) draw((width = now));
  });
  observer.observe(node);
  return () => observer.disconnect();
}
