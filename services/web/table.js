// The table of trials, with filters; long tables show their newest rows until asked for all.

import { h, update } from "./dom.js";
import * as format from "./format.js";

const ROWS = 50;

export function trialTable(place) {
  const filter = { arm: "", state: "", all: false };
  let last = null;
  const body = h("tbody");
  const headRow = h("tr");
  const note = h("p", { class: "muted small" });
  const redraw = () => last && draw(...last);
  const choice = (name, options) => h("label", null, `${format.capital(name)} `,
    h("select", { onchange: (event) => { filter[name] = event.target.value; redraw(); } },
      h("option", { value: "" }, "any"), options.map((value) => h("option", { value }, value))));
  place.replaceChildren(
    h("div", { class: "filters" },
      choice("arm", ["search", "uniform", "random", "global", "base", "preparation", "final", "report"]),
      choice("state", ["pending", "running", "complete", "stopped", "infeasible", "failed", "cancelled"])),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Trials" },
      h("table", { class: "trials" }, h("thead", null, headRow), body)),
    note);

  function draw(search, trials) {
    const metric = search.spec.objective;
    const found = trials.filter((trial) => (!filter.arm || trial.arm === filter.arm) && (!filter.state || trial.state === filter.state)).reverse();
    const rows = filter.all ? found : found.slice(0, ROWS);
    update(headRow, metric, () => [["Number", 1], ["Arm"], ["State"], [format.capital(format.metricName(metric)), 1], ["MACs", 1], ["Seconds", 1], ["Reason"]]
      .map(([name, number]) => h("th", { scope: "col", class: number && "number" }, name)));
    update(body, [rows, search.best?.number], () => rows.map((trial) => row(trial, metric, search.best?.number)));
    update(note, [found.length, rows.length, trials.length], () => [
      found.length ? `Newest first; ${rows.length} of ${found.length} shown. ` : trials.length ? "No such trial. " : "No trial yet. ",
      found.length > rows.length && h("button", { type: "button", onclick: () => { filter.all = true; redraw(); } }, "Show all")]);
  }
  return { show: (search, trials) => { last = [search, trials]; draw(search, trials); } };
}

function row(trial, metric, best) {
  const number = (text) => h("td", { class: "number" }, text);
  return h("tr", { class: trial.number === best ? "best-row" : null },
    h("th", { scope: "row", class: "number" }, trial.number === best ? `★ ${trial.number}` : `${trial.number}`),
    h("td", null, trial.arm),
    h("td", { class: `state-${trial.state}` }, trial.attempt > 1 ? `${trial.state} (attempt ${trial.attempt})` : trial.state),
    number(format.score(metric, trial.metrics[metric])), number(format.count(trial.metrics.macs)), number(trial.cost.seconds?.toFixed(1) ?? "–"),
    h("td", { class: "reason-cell" }, trial.reason ?? ""));
}
