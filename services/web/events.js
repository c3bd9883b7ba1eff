// News of a search: its events as the service streams them. EventSource cannot send a key, so the stream is read by fetch.

import { visible } from "./api.js";
import { authorization } from "./key.js";

const AGAIN_MS = 2000;

// Returns a function that resolves when there is news: once the stream is open, with every event, and, while there is no
// stream, every two seconds. A stream that broke is opened again behind the last event that came. A page that nobody sees has
// none: a browser opens only a few connections to one service.
export function newsOf(path) {
  let after = null;
  let fresh = false;
  let ended = false;
  let wake = () => {};
  const tell = () => { fresh = true; wake(); };

  async function read() {
    await visible();
    const leave = new AbortController();
    const hide = () => document.hidden && leave.abort();
    document.addEventListener("visibilitychange", hide);
    await stream(leave.signal).finally(() => document.removeEventListener("visibilitychange", hide));
  }

  async function stream(signal) {
    const place = after === null ? "?last_event_id=latest" : "";
    const headers = { Accept: "text/event-stream", ...authorization(), ...(after === null ? {} : { "Last-Event-ID": after }) };
    const response = await fetch(path + place, { headers, signal });
    if ([204, 401, 403, 404].includes(response.status)) { ended = true; return; }
    if (!response.ok) throw new Error(`${path} answered ${response.status}`);
    if (after === null) tell(); // what happened before is not told again
    let rest = "";
    for await (const text of chunks(response.body)) {
      const parts = (rest + text).split("\n\n");
      rest = parts.pop();
      for (const part of parts) hear(Object.fromEntries(part.split("\n").map((line) => line.split(/: (.*)/s, 2))));
    }
  }

  function hear({ id, event }) {
    if (id !== undefined) after = id;
    if (event === "end") ended = true;
    if (event !== undefined && event !== "shutdown") tell();
  }

  (async () => {
    while (!ended) {
      await read().catch(() => {});
      if (ended) break;
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      tell();
    }
    tell();
  })();

  return async () => {
    if (!fresh) await new Promise((resolve) => { wake = resolve; });
    fresh = false;
  };
}

async function* chunks(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    yield value;
  }
}
