// Talking to the service, which answers errors as RFC 9457 problems.

import { authorization } from "./key.js";

export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export async function call(path, options) {
  const response = await fetch(path, { headers: { Accept: "application/json", ...authorization() }, ...options });
  if (response.ok) return response.json();
  const problem = await response.json().catch(() => ({}));
  throw new Problem(response.status, problem.detail ?? `${path} answered ${response.status}.`);
}

const ENDED = new Set(["complete", "stopped", "infeasible", "failed", "cancelled"]);

// All trials of a search. Full pages on which every trial has ended will never change and are not fetched again.
export function trialReader(path) {
  const settled = [];
  return async () => {
    const trials = settled.flatMap((page) => page.items);
    let token = settled.at(-1)?.next_page_token;
    let first = settled.length === 0;
    while (first || token) {
      const page = await call(`${path}?limit=200${token ? `&page_token=${encodeURIComponent(token)}` : ""}`);
      trials.push(...page.items);
      const contiguous = first ? settled.length === 0 : settled.at(-1)?.next_page_token === token;
      if (contiguous && page.next_page_token && page.items.every((trial) => ENDED.has(trial.state))) settled.push(page);
      token = page.next_page_token;
      first = false;
    }
    return trials;
  };
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

export async function visible() {
  while (document.hidden) await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
}

const SOON_MS = 300; // for what comes in a burst

// Calls `refresh` now and whenever `news` has some, while the page is visible, until it says that nothing more will change.
export async function keepFresh(refresh, news = () => pause(2000)) {
  const trouble = document.getElementById("trouble");
  for (;;) {
    await visible();
    try {
      const done = await refresh();
      trouble.hidden = true;
      if (done) return;
    } catch (error) {
      if (error instanceof Problem && [401, 403, 404].includes(error.status)) throw error;
      trouble.textContent = error instanceof Problem ? error.message : "The service does not answer; trying again.";
      trouble.hidden = false;
      await pause(2000);
      continue;
    }
    await Promise.all([news(), pause(SOON_MS)]);
  }
}
