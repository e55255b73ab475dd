// What happens in the lab, as it happens: one stream of server-sent events for the page, resumed where it broke.
// Read with fetch, because an EventSource cannot send the page's half of the session.

import { ask } from "./api.js";

const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 5000;
const SILENCE_MS = 40_000; // the server writes a comment every 15 s

/** The events of `text` that are whole, and the rest: [{id, event, data}], rest. */
export function eventsIn(text) {
  const blocks = text.replaceAll("\r\n", "\n").split("\n\n");
  const rest = blocks.pop();
  const found = [];
  for (const block of blocks) {
    const fields = { event: "message", data: [] };
    for (const line of block.split("\n")) {
      const [, name, value] = /^([^:]*):? ?(.*)$/.exec(line) ?? [];
      if (name === "data") fields.data.push(value);
      else if (name === "id" || name === "event") fields[name] = value;
    }
    if (fields.data.length) found.push({ id: fields.id, event: fields.event, data: fields.data.join("\n") });
  }
  return [found, rest];
}

/** Listeners by event name; `status` is "live", "lost" or "closed" and an event too, as is "refused" (a Problem). */
class Live {
  #listeners = new Map();
  #stream = null;
  #timer = 0;
  #wait = FIRST_RETRY_MS;
  #lastId = "";
  status = "closed";

  /** Calls `listener(data)` for each event; returns what ends it. "resumed": what is shown has to be fetched anew. */
  on(event, listener) {
    const all = this.#listeners.get(event) ?? this.#listeners.set(event, new Set()).get(event);
    all.add(listener);
    return () => all.delete(listener);
  }

  open() {
    this.close();
    this.#lastId = "";
    this.#read();
  }

  close() {
    clearTimeout(this.#timer);
    this.#stream?.abort();
    this.#stream = null;
    this.#become("closed");
  }

  async #read() {
    const stream = new AbortController();
    this.#stream = stream;
    let silence = 0;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(() => stream.abort(), SILENCE_MS);
    };
    try {
      const headers = { Accept: "text/event-stream", ...(this.#lastId ? { "Last-Event-ID": this.#lastId } : {}) };
      const { body } = await ask("GET", "/api/events", { headers, signal: stream.signal });
      const reader = body.pipeThrough(new TextDecoderStream()).getReader();
      heard();
      let text = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        heard();
        const [events, rest] = eventsIn(text + value);
        text = rest;
        for (const event of events) this.#take(event);
      }
    } catch (error) {
      if (error.status === 401 && this.#stream === stream) {
        this.close();
        this.#say("refused", error);
        return;
      }
    } finally {
      clearTimeout(silence);
    }
    if (this.#stream !== stream) return; // closed on purpose
    this.#become("lost");
    this.#timer = setTimeout(() => this.#read(), this.#wait);
    this.#wait = Math.min(this.#wait * 2, LAST_RETRY_MS);
  }

  #take({ id, event, data }) {
    const wasLost = this.status === "lost";
    this.#wait = FIRST_RETRY_MS;
    this.#become("live");
    if (event === "hello") {
      if (wasLost && !JSON.parse(data).resumed) this.#say("resumed", {});
      return;
    }
    if (id) this.#lastId = id;
    this.#say(event, JSON.parse(data));
  }

  #become(status) {
    if (this.status === status) return;
    this.status = status;
    this.#say("status", status);
  }

  #say(event, data) {
    for (const listener of this.#listeners.get(event) ?? []) listener(data);
  }
}

export const live = new Live();
