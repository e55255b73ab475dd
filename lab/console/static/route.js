// Where the page is, as its hash: #/call/<Call-ID>?tab=trace&step=5f0c… . Everything one sees can be linked to.

/** The route of `hash`: `view`, `id` (decoded, may be empty) and `with`, its parameters. */
export function parse(hash) {
  const [path, tail = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const [view = "", ...rest] = path.split("/");
  let id = rest.join("/");
  try {
    id = decodeURIComponent(id);
  } catch {
    // not percent-encoded after all: taken as it stands
  }
  return { view: view || "topology", id, with: Object.fromEntries(new URLSearchParams(tail)) };
}

/** The hash of a view. */
export function link(view, id = "", parameters = {}) {
  const kept = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const tail = kept.length ? `?${new URLSearchParams(kept)}` : "";
  return `#/${view}${id ? `/${encodeURIComponent(id)}` : ""}${tail}`;
}

/** Goes somewhere; `quietly` leaves no entry in the history and tells nobody. */
export function go(hash, { quietly = false } = {}) {
  if (quietly) history.replaceState(null, "", hash);
  else location.hash = hash;
}

/** Changes parameters of the present route without leaving it. */
export function note(parameters) {
  const here = parse(location.hash);
  go(link(here.view, here.id, { ...here.with, ...parameters }), { quietly: true });
}
