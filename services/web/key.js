// The API key, where the service asks for one: kept for this tab alone, and sent in a header, which no link can do.

import { h } from "./dom.js";

const PLACE = "automl-prune-key";

export function authorization() {
  const key = sessionStorage.getItem(PLACE);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

// Asks for a key, and loads the page again with it.
export function askForKey(main, problem) {
  const field = h("input", { type: "password", id: "key", autocomplete: "off", required: true, spellcheck: "false", size: "40" });
  const use = (event) => {
    event.preventDefault();
    const key = field.value.trim();
    if (!/^[\x21-\x7e]+$/.test(key)) return;
    sessionStorage.setItem(PLACE, key);
    location.reload();
  };
  const wrong = sessionStorage.getItem(PLACE) !== null;
  sessionStorage.removeItem(PLACE);
  main.replaceChildren(h("section", { class: "card note" },
    h("h1", null, "This service asks for an API key"),
    wrong ? h("p", { class: "reason failed", role: "alert" }, problem) : null,
    h("form", { onsubmit: use },
      h("p", null, h("label", { for: "key" }, "Key "), field, " ", h("button", { type: "submit" }, "Use it")),
      h("p", { class: "muted small" }, "It stays in this tab and is forgotten when you close it. ",
        h("code", null, "automl-prune keys create NAME"), " makes one."))));
  field.focus();
}

// Links to what takes a key are followed with it, and what comes is saved.
document.addEventListener("click", async (event) => {
  const link = event.target.closest?.('a[href^="/v1/"], a[href="/openapi.json"]');
  if (!link || !sessionStorage.getItem(PLACE) || event.defaultPrevented) return;
  event.preventDefault();
  const response = await fetch(link.href, { headers: authorization() }).catch(() => null);
  if (!response?.ok) return link.after(h("span", { class: "reason failed", role: "alert" }, " could not be fetched"));
  const kind = response.headers.get("content-type") ?? "";
  const name = new URL(link.href).pathname.split("/").at(-1) + (kind.startsWith("application/json") && !link.href.endsWith(".json") ? ".json" : "");
  const url = URL.createObjectURL(await response.blob());
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
});
