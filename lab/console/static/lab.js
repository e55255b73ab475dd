// What the page knows of the lab: its nodes, links and users, kept current by the event stream.

import { api } from "./api.js";
import { live } from "./live.js";

/** `current` is the last /api/lab with what events changed since; null before the first answer. */
class Lab {
  current = null;
  #changed = new Set();

  /** Calls `listener(what)` when nodes or users changed; returns what ends it. */
  onChange(listener) {
    this.#changed.add(listener);
    return () => this.#changed.delete(listener);
  }

  async load() {
    this.current = await api.lab();
    this.#say("lab");
    return this.current;
  }

  follow() {
    const again = () => this.load().catch(() => {});
    live.on("resumed", again);
    live.on("lab", again);
    live.on("node", (row) => {
      const nodes = this.current?.nodes;
      if (!nodes) return;
      const at = nodes.findIndex((node) => node.instance === row.instance);
      if (at < 0) again(); // a new instance brings links with it
      else nodes[at] = { ...nodes[at], ...row };
      this.#say("node");
    });
    live.on("registration", (row) => {
      const user = this.user(row.user ?? row.name);
      if (user) Object.assign(user, row, { name: user.name });
      this.#say("user");
    });
  }

  user(name) {
    return this.current?.users.find((user) => user.name === name);
  }

  node(instance) {
    return this.current?.nodes.find((node) => node.instance === instance);
  }

  #say(what) {
    for (const listener of this.#changed) listener(what);
  }
}

export const lab = new Lab();
