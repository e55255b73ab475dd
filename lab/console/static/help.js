// The help: which keys do what, and what the signs mean.

import { el } from "./dom.js";
import { shortcutKeys } from "./keys.js";
import { mediaSample } from "./media_drawing.js";
import { nodeSign } from "./words.js";

const IN_LISTS = [
  ["↑ ↓ Home End", "move in a list, a ladder, a waterfall"],
  ["Enter", "open what has the focus"],
  ["← →", "close and open a branch of a trace; move along a plot; to the next tab"],
  ["c", "in the list of calls: mark a call for comparison"],
  ["Esc", "close a panel or this help"],
];
const MEDIA = [
  ["srtp", "protected (SRTP), a key on this leg"],
  ["opaque", "protected, relayed unopened"],
  ["rtp", "in the clear (RTP)"],
  ["unknown", "not known: nobody reported it"],
];

const keyRow = ([keys, words]) => el("div", {}, el("dt", {}, keys.split(" ").map((key) => el("kbd", {}, key))), el("dd", {}, words));

export function helpDialog() {
  const keys = el("dl", { class: "keys" });
  const enabled = el("input", { type: "checkbox", id: "single-keys", on: { change: () => (shortcutKeys.enabled = enabled.checked) } });
  const dialog = el(
    "dialog",
    { class: "help", "aria-labelledby": "help-title" },
    el("h2", { id: "help-title" }, "Keys and signs"),
    el("div", { class: "columns" },
      el("section", {}, el("h3", {}, "Everywhere"), keys, el("p", {}, enabled, el("label", { for: "single-keys" }, " single keys are shortcuts"))),
      el("section", {}, el("h3", {}, "In lists and drawings"), el("dl", { class: "keys" }, IN_LISTS.map(keyRow)))),
    el("h3", {}, "Signs"),
    el("ul", { class: "signs" }, ["serving", "starting", "fallen", "failed", "stopped"].map((state) => el("li", {}, `${nodeSign(state)} ${state}`))),
    el("ul", { class: "signs" }, MEDIA.map(([kind, words]) => el("li", {}, mediaSample(kind), ` ${words}`))),
    el("button", { type: "button", class: "primary", on: { click: () => dialog.close() } }, "Close"),
  );
  const show = dialog.showModal.bind(dialog);
  dialog.showModal = () => {
    enabled.checked = shortcutKeys.enabled;
    keys.replaceChildren(...shortcutKeys.all.map(({ key, words }) => keyRow([key, words])));
    if (!dialog.open) show();
  };
  return dialog;
}
