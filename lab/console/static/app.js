// The page: opens a session with the token of the link, then shows the view that the hash names.

import { openSession, sessionOfOtherTabs } from "./api.js";
import { buildBar } from "./bar.js";
import { announce, el, replace } from "./dom.js";
import { lab } from "./lab.js";
import { live } from "./live.js";
import { listenToShortcuts } from "./keys.js";
import { problem, waiting } from "./parts.js";
import { parse } from "./route.js";
import { theme } from "./theme.js";
import { callView } from "./call.js";
import { callsView } from "./calls.js";
import { compareView } from "./compare.js";
import { placeView } from "./place.js";
import { registrationsView } from "./registrations.js";
import { searchView } from "./search.js";
import { refusal, signInView } from "./signin.js";
import { ticketsView } from "./tickets.js";
import { topologyView } from "./topology.js";
import { traceView } from "./trace.js";

// A view is made for a route and gives {title, element, update(route)?, close()?}. `update` answers false when the
// route needs a view of its own.
const VIEWS = new Map(Object.entries({
  topology: topologyView,
  calls: callsView,
  call: callView,
  compare: compareView,
  registrations: registrationsView,
  tickets: ticketsView,
  place: placeView,
  search: searchView,
  trace: traceView,
}));

const main = document.getElementById("main");
let shown = null;
let bar = null;

function show(route) {
  const make = VIEWS.get(route.view) ?? topologyView;
  if (shown?.make === make && shown.view.update?.(route) !== false && shown.view.update) {
    bar.mark(route.view);
    return;
  }
  const first = shown === null;
  shown?.view.close?.();
  const view = make(route);
  shown = { make, view };
  replace(main, view.element);
  main.scrollTop = 0;
  document.title = `${view.title} · imslab`;
  bar.mark(route.view);
  announce(view.title);
  if (!first) main.focus({ preventScroll: true });
}

function signIn(reason) {
  shown?.view.close?.();
  shown = null;
  live.close();
  bar?.hide();
  document.title = "Sign in · imslab";
  replace(main, signInView(reason, start));
}

/** The token of the link, taken out of the address before anything else is done. */
function tokenOfLink() {
  const found = /^#token=([^&]*)(?:&to=(.*))?$/.exec(location.hash);
  if (!found) return null;
  history.replaceState(null, "", location.pathname + (found[2] ? `#${decodeURIComponent(found[2])}` : "#/topology"));
  return decodeURIComponent(found[1]);
}

async function start() {
  replace(main, waiting("Asking the lab…"));
  try {
    await lab.load();
  } catch (error) {
    if (error.status === 401) signIn(null);
    else replace(main, problem(error, start));
    return;
  }
  bar ??= buildBar();
  bar.show();
  live.open();
  show(parse(location.hash));
}

async function begin() {
  theme.restore();
  lab.follow();
  listenToShortcuts();
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });
  addEventListener("hashchange", () => {
    const token = tokenOfLink();
    if (token) open(token);
    else if (shown) show(parse(location.hash));
  });
  live.on("refused", signIn); // the lab was started anew, or the session is over: its halves are void
  const token = tokenOfLink();
  if (token) await open(token);
  else {
    await sessionOfOtherTabs();
    await start();
  }
}

async function open(token) {
  try {
    await openSession(token);
  } catch (error) {
    signIn(refusal(error));
    return;
  }
  await start();
}

begin().catch((error) => replace(main, el("div", {}, problem(error))));
