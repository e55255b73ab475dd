// The console's JSON API: requests, and refusals (ProblemDetails) as words.

// A session has two halves: a cookie that no script can read, and this key that no other page can read.
const PAGE_KEY = "imslab-page-key";
let pageKey = "";
try {
  pageKey = sessionStorage.getItem(PAGE_KEY) ?? "";
} catch {
  // a browser without storage asks for the link again after a reload
}

// Tabs of one browser share the cookie, and so they share the key: a tab that opens a session tells the others, and a
// tab that has none asks. Only pages of this very origin hear it.
const tabs = new BroadcastChannel("imslab-session");
const ASK_MS = 250;

let asking = false;

tabs.onmessage = ({ data }) => {
  if (data.want && pageKey) tabs.postMessage({ answer: pageKey });
  if (typeof data.opened === "string") keep(data.opened);
  // An answer may be of a session that is over too: only who asked takes it, and only once.
  if (typeof data.answer === "string" && asking && data.answer !== pageKey) keep(data.answer);
};

/** Whether another tab had a key that is not `used`. */
async function otherKey(used) {
  const until = performance.now() + ASK_MS;
  asking = true;
  tabs.postMessage({ want: true });
  while (pageKey === used && performance.now() < until) await new Promise((done) => setTimeout(done, 10));
  asking = false;
  return pageKey !== used;
}

/** Opens a session with the token of the link. */
export async function openSession(token) {
  keep((await request("POST", "/api/session", { token })).page_key);
  tabs.postMessage({ opened: pageKey });
}

/** Takes over the session of another tab, where there is one. */
export async function sessionOfOtherTabs() {
  if (!pageKey) await otherKey("");
}

function keep(key) {
  pageKey = key;
  try {
    sessionStorage.setItem(PAGE_KEY, pageKey);
  } catch {
    // kept for this page alone
  }
}

/** A refusal of the server, or its silence; `status` is 0 when nobody answered. */
export class Problem extends Error {
  constructor(status, words, cause = "") {
    super(words);
    this.status = status;
    this.cause = cause;
  }
}

const WORDS = {
  0: "The console does not answer. Is the lab still up? (imslab status)",
  401: "This page has no valid session. Open the link that imslab console prints.",
  404: "There is no such thing in this lab.",
  413: "That is more than the console accepts.",
  421: "The console answers under its own address only.",
  429: "Too many at once. Wait until one of them has ended.",
};

async function problemOf(response) {
  let details = {};
  try {
    details = await response.json();
  } catch {
    // no ProblemDetails: the status has to do
  }
  const said = details.detail || WORDS[response.status] || details.title || `The console answered ${response.status}.`;
  return new Problem(response.status, said, details.cause ?? "");
}

/** The answer to a request with both halves of the session; throws a Problem for a refusal or silence. */
export async function ask(method, path, { body, headers = {}, signal } = {}, again = true) {
  const used = pageKey;
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: { Accept: "application/json", "X-Imslab": pageKey, ...(body ? { "Content-Type": "application/json" } : {}), ...headers },
      credentials: "same-origin",
      cache: "no-store",
      body: body && JSON.stringify(body),
      signal,
    });
  } catch {
    throw new Problem(0, WORDS[0]);
  }
  // Another tab may have opened a session anew in this very moment: its cookie is here before its key.
  if (response.status === 401 && again && path !== "/api/session" && (pageKey !== used || (await otherKey(used)))) {
    return ask(method, path, { body, headers, signal }, false);
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

const request = async (method, path, body) =>
  (await ask(method, path, { body: method === "POST" ? (body ?? {}) : undefined })).json();

const query = (given) => {
  const kept = Object.entries(given).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return kept.length ? `?${new URLSearchParams(kept)}` : "";
};
const part = encodeURIComponent;

export const api = {
  lab: () => request("GET", "/api/lab"),
  metrics: (node) => request("GET", `/api/metrics${query({ node })}`),
  calls: (filters) => request("GET", `/api/calls${query(filters)}`),
  call: (id) => request("GET", `/api/calls/${part(id)}`),
  message: (id, n) => request("GET", `/api/calls/${part(id)}/messages/${part(n)}`),
  traceOfCall: (id) => request("GET", `/api/calls/${part(id)}/trace`),
  trace: (id) => request("GET", `/api/traces/${part(id)}`),
  registrations: () => request("GET", "/api/registrations"),
  tickets: (filters) => request("GET", `/api/tickets${query(filters)}`),
  orders: () => request("GET", "/api/orders"),
  search: (q) => request("GET", `/api/search${query({ q })}`),
  placeCall: (order) => request("POST", "/api/calls", order),
  hangUp: (id) => request("POST", `/api/calls/${part(id)}/hang-up`),
  register: (user) => request("POST", `/api/users/${part(user)}/register`),
  deregister: (user) => request("POST", `/api/users/${part(user)}/deregister`),
};
