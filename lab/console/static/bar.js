// The bar on top: views, search, the state of the connection, theme, help.

import { announce, el, replace } from "./dom.js";
import { helpDialog } from "./help.js";
import { shortcut } from "./keys.js";
import { lab } from "./lab.js";
import { live } from "./live.js";
import { button } from "./parts.js";
import { go, link } from "./route.js";
import { theme } from "./theme.js";

const VIEWS = [
  ["topology", "Topology"],
  ["calls", "Calls"],
  ["registrations", "Registrations"],
  ["tickets", "KMS tickets"],
  ["compare", "Compare"],
  ["place", "Place a call"],
];
const BELONGS = { call: "calls" };
const THEME_WORDS = { system: ["◐", "Auto"], light: ["☀", "Light"], dark: ["☾", "Dark"] };
const STATUS_WORDS = {
  live: ["●", "live", "good"],
  lost: ["▲", "connection lost, trying again", "bad"],
  closed: ["○", "not connected", "off"],
};

export function buildBar() {
  const root = document.getElementById("bar");
  const help = helpDialog();
  const links = VIEWS.map(([name, title]) => el("a", { href: link(name), "data-view": name }, title));
  const find = el("input", { type: "search", name: "q", placeholder: "User, Call-ID, trace id", "aria-label": "Search users, calls and traces", autocomplete: "off", spellcheck: "false" });
  const searching = el(
    "form",
    {
      role: "search",
      on: {
        submit: (event) => {
          event.preventDefault();
          if (find.value.trim()) go(link("search", "", { q: find.value.trim() }));
        },
      },
    },
    find,
  );
  const status = el("span", { class: "status", role: "status" });
  const scheme = button("", () => switchTheme(), { class: "quiet" });
  const name = el("span", { class: "lab-name dim" });
  root.replaceChildren(
    el("a", { class: "brand", href: link("topology"), "aria-label": "imslab, to the topology" }, "imslab", name),
    el("nav", { "aria-label": "Views" }, links),
    searching,
    status,
    scheme,
    button(["?", el("span", { class: "wide-only" }, " Help")], () => help.showModal(), { class: "quiet", "aria-label": "Help: keys and signs" }),
    help,
  );

  function switchTheme() {
    announce(`Theme: ${theme.next()}`);
    showTheme();
  }
  function showTheme() {
    const [sign, words] = THEME_WORDS[theme.chosen];
    replace(scheme, sign, el("span", { class: "wide-only" }, ` ${words}`));
    scheme.setAttribute("aria-label", `Theme: ${theme.chosen}. Change it`);
  }
  function showStatus() {
    const [sign, words, tone] = STATUS_WORDS[live.status];
    status.className = `status ${tone}`;
    replace(status, el("span", { "aria-hidden": "true" }, sign), ` ${words}`);
    document.body.classList.toggle("lost", live.status === "lost");
  }
  function showName() {
    replace(name, lab.current?.name && lab.current.name !== "imslab" ? lab.current.name : "");
  }

  live.on("status", showStatus);
  lab.onChange(showName);
  showTheme();
  showStatus();
  showName();
  VIEWS.forEach(([view, title], index) => shortcut(String(index + 1), `to ${title}`, () => go(link(view))));
  shortcut("/", "to the search", () => find.focus());
  shortcut("t", "next theme", switchTheme);
  shortcut("?", "this help", () => help.showModal());

  return {
    mark(view) {
      for (const node of links) {
        const here = node.dataset.view === (BELONGS[view] ?? view);
        if (here) node.setAttribute("aria-current", "page");
        else node.removeAttribute("aria-current");
      }
    },
    show: () => root.removeAttribute("hidden"),
    hide: () => root.setAttribute("hidden", ""),
  };
}
