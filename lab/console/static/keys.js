// Keyboard: single-key shortcuts with a table that the help shows, and roving focus in lists.

const KEY = "imslab-shortcuts";
const shortcuts = [];

const stored = () => {
  try {
    return localStorage.getItem(KEY) !== "off";
  } catch {
    return true;
  }
};
let enabled = stored();

/** Single keys can be in the way of speech input: they can be switched off (WCAG 2.1.4). */
export const shortcutKeys = {
  get enabled() {
    return enabled;
  },
  set enabled(on) {
    enabled = on;
    try {
      localStorage.setItem(KEY, on ? "on" : "off");
    } catch {
      // for this page alone
    }
  },
  all: shortcuts,
};

/** `key` does `run` wherever no text is being typed. */
export function shortcut(key, words, run) {
  shortcuts.push({ key, words, run });
}

const typing = (target) =>
  target instanceof HTMLElement &&
  (target.isContentEditable || ["SELECT", "TEXTAREA"].includes(target.tagName) ||
    (target.tagName === "INPUT" && !["checkbox", "radio", "button"].includes(target.type)));

export function listenToShortcuts() {
  document.addEventListener("keydown", (event) => {
    if (!enabled || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
    if (document.querySelector("dialog[open]")) return;
    const found = shortcuts.find(({ key }) => key === event.key);
    if (!found) return;
    event.preventDefault();
    found.run();
  });
}

/**
 * One tab stop for all items in `root`, arrows between them. `items()` gives the elements in order, `onOpen(item)` is
 * Enter or space, `onMove(item)` the arrival of the focus. Returns `focus(item)`.
 */
export function roving(root, { items, onOpen = () => {}, onMove = () => {}, keys = {} }) {
  const focus = (item, { quiet = false } = {}) => {
    if (!item) return;
    for (const other of items()) other.setAttribute("tabindex", other === item ? "0" : "-1");
    if (quiet) return;
    item.focus({ preventScroll: true });
    item.scrollIntoView({ block: "nearest", inline: "nearest" });
    onMove(item);
  };
  root.addEventListener("keydown", (event) => {
    const all = items();
    const at = all.indexOf(event.target.closest("[tabindex]"));
    if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -all.length, End: all.length };
    if (event.key in steps) {
      focus(all[Math.max(0, Math.min(all.length - 1, at + steps[event.key]))]);
    } else if (event.key === "Enter" || event.key === " ") {
      onOpen(all[at]);
    } else if (event.key in keys) {
      keys[event.key](all[at], focus);
    } else {
      return;
    }
    event.preventDefault();
  });
  return focus;
}
