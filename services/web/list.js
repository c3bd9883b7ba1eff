// The list of searches.

import { call, keepFresh } from "./api.js";
import { h, update } from "./dom.js";
import * as format from "./format.js";

export async function showList(main) {
  const summary = h("p", { class: "muted", "aria-live": "polite" });
  const list = h("ol", { class: "searches", "aria-label": "Searches, newest first" });
  const more = h("p");
  const rows = new Map();
  main.replaceChildren(h("div", { class: "heading" }, h("h1", null, "Searches"), summary), list, more);
  await keepFresh(async () => {
    const page = await call("/v1/searches?limit=50");
    for (const search of page.items) {
      if (!rows.has(search.id)) rows.set(search.id, row(search));
      rows.get(search.id).show(search);
    }
    update(summary, page.items.map((search) => search.state), describe);
    update(list, page.items.map((search) => search.id), (ids) => (ids.length ? ids.map((id) => rows.get(id).item) : [empty()]));
    update(more, page.next_page_token, older);
    format.refreshAges();
    return false;
  });
}

function describe(states) {
  const going = states.filter((state) => ["preparing", "running", "finishing"].includes(state)).length;
  const queued = states.filter((state) => state === "queued").length;
  return states.length ? `${going} running, ${queued} queued` : "";
}

const older = (token) => token &&
  h("a", { href: `/v1/searches?limit=50&page_token=${encodeURIComponent(token)}` }, "Older searches (JSON)");

// A row that is made once, so that a link in it keeps its focus while the numbers beside it change.
function row(search) {
  const { spec } = search;
  const [state, progressed, stands] = [h("div"), h("div"), h("div")];
  const item = h("li", { class: "card search" },
    h("div", { class: "who" }, h("a", { class: "cover", href: `/searches/${search.id}` }, search.name ?? search.id), about(search)),
    state,
    pair(spec.search_space.name, `${spec.strategy.name} on ${spec.dataset.name}`),
    pair(spec.budgets.map(format.budgetText).join("; "), "budget"),
    progressed, stands,
    h("div", { class: "age muted small" }, format.ago(search.created_at)));
  const show = (now) => {
    update(state, now.state, pill);
    update(progressed, now.progress, progress);
    update(stands, [spec.objective, now.base[spec.objective], now.best?.metrics[spec.objective]], standing);
  };
  return { item, show };
}

const about = (search) => h("span", { class: "muted small about" },
  Object.entries(search.labels).map(([key, value]) => h("span", { class: "label" }, `${key}: ${value}`)),
  search.name ? h("span", { title: search.id }, search.id) : null);

const pair = (value, note) => h("div", { class: "pair" }, h("span", null, value), h("span", { class: "muted small" }, note));

const standing = ([metric, base, best]) => pair(
  best === undefined ? "no result yet" : `${format.score(metric, best)} ${format.metricName(metric)}`,
  base === undefined ? "best so far" : `best so far; full ${format.score(metric, base)}`);

export const pill = (state) => h("span", { class: `pill ${state}` }, state);

export function progress({ ended, total, failed }) {
  const all = Math.max(total ?? 0, ended);
  return h("div", { class: "pair" },
    h("progress", { max: all || 1, value: ended, "aria-label": `${ended} of ${all} evaluations` }),
    h("span", { class: "muted small" }, `${ended} of ${all}${failed ? `, ${failed} failed` : ""}`));
}

function empty() {
  const spec = {
    name: "first-search",
    search_space: { name: "digits_resnet" },
    dataset: { name: "digits", select_size: 300 },
    strategy: { name: "random" },
    budgets: [{ metric: "macs", max_ratio: 0.5 }],
  };
  const lines = Object.entries(spec).map(([key, value]) => `    "${key}": ${JSON.stringify(value)}`);
  const curl = `curl -X POST ${location.origin}/v1/searches \\\n  -H 'Content-Type: application/json' \\\n  -d '{\n${lines.join(",\n")}\n  }'`;
  const kinds = ["search-spaces", "datasets", "strategies", "criteria"];
  return h("li", { class: "card empty" },
    h("h2", null, "No searches yet"),
    h("p", null, "Order one from the command line, with a file that says what to search:"),
    h("pre", { tabindex: "0" }, `automl-prune submit spec.yaml --watch \\\n  --server ${location.origin}`),
    h("p", null, "or over HTTP:"),
    h("pre", { tabindex: "0" }, curl),
    h("p", { class: "muted" }, "Names that can be used: ", kinds.map((kind, i) => [i ? ", " : "", h("a", { href: `/v1/${kind}` }, kind)]), "."));
}
