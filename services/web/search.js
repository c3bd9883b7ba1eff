// One search: where it stands, its drawings, its trials, its files.

import { call, keepFresh, trialReader } from "./api.js";
import { facts, history, scatter, widthBars } from "./charts.js";
import { h, safeLink, update } from "./dom.js";
import { newsOf } from "./events.js";
import * as format from "./format.js";
import { importanceBars, importances } from "./importances.js";
import { flat, keyOf, latencyCharts } from "./latency.js";
import { pill, progress } from "./list.js";
import { parallel } from "./parallel.js";
import { trialTable } from "./table.js";
import { timeline } from "./timeline.js";

const ENDED = ["succeeded", "failed", "cancelled"];

export async function showSearch(main, id) {
  const path = `/v1/searches/${id}`;
  let search = await call(path);
  const view = skeleton(main);
  const readTrials = trialReader(`${path}/trials`);
  const table = trialTable(view.trials);
  let trials = [];
  const draw = () => {
    document.title = `${search.name ?? search.id} · automl-prune`;
    const { state, state_reason, attempt, cancel_requested, result_ready, links } = search;
    update(view.head, [state, state_reason, attempt, cancel_requested, result_ready, links], () => head(search, async () => {
      search = await call(`${path}:cancel`, { method: "POST" });
      draw();
    }));
    update(view.tiles, [search, view.result], () => tiles(search, view.result));
    drawCharts(view, search, trials);
    table.show(search, trials);
  };
  setInterval(format.refreshAges, 10_000);
  addEventListener("resize", () => requestAnimationFrame(draw));
  await keepFresh(async () => {
    search = await call(path);
    trials = await readTrials();
    if (search.result_ready && !view.result) view.result = await call(`${path}/best`);
    const files = await call(`${path}/artifacts`);
    draw();
    format.refreshAges();
    update(view.files, files.items, fileList);
    return ENDED.includes(search.state);
  }, ENDED.includes(search.state) ? undefined : newsOf(`${path}/events`));
}

function skeleton(main) {
  const part = (title, note, ...rest) => {
    const body = h("div", { class: "body" });
    const section = h("section", { class: "card" }, h("h2", null, title), note ? h("p", { class: "muted small" }, note) : null, body, ...rest);
    return { section, body };
  };
  const head = h("header", { class: "search-head" });
  const tileRow = h("dl", { class: "tiles" });
  const scatterPart = part("Trials", "Each mark is one candidate, scored on the select split.");
  const historyPart = part("Best so far", "Within the budget, by number of evaluations.");
  const widths = h("tbody");
  const widthTable = h("details", null, h("summary", null, "The same as a table"),
    h("div", { class: "scroll", tabindex: "0" }, h("table", null,
      h("thead", null, h("tr", null, ["Group", "Kept", "Full", "Part"].map((name) => h("th", { scope: "col" }, name)))), widths)));
  const bars = part("Best architecture", "Channels kept in each coupled group; the outline is the full network.", widthTable);
  const lines = part("Widths and scores", "Each line is a scored trial: what it keeps of every group, and its score on the right.");
  const time = part("Timeline", "Each bar is one trial from its start to its record; rows are parallel slots, not certain workers.");
  const weights = part("Which widths matter", "Spearman rank correlation of a group's width and the score. It says what went together in these trials, not what causes what.");
  const latency = part("Latency", "Milliseconds on the devices that budget this search.");
  const trialPart = part("All trials");
  const files = part("Files");
  main.replaceChildren(head, tileRow,
    h("div", { class: "charts" }, scatterPart.section, historyPart.section), bars.section,
    h("div", { class: "charts" }, lines.section, weights.section), time.section, latency.section, trialPart.section, files.section);
  return {
    head, tiles: tileRow, scatter: scatterPart.body, history: historyPart.body, bars: bars.body, widthTable, widths,
    lines: lines.body, time: time.body, weights: weights.body, latency: latency.body, latencySection: latency.section, trials: trialPart.body, files: files.body, result: null,
  };
}

function head(search, cancel) {
  const { spec } = search;
  const links = [
    [search.links.ray_dashboard, "Ray dashboard"], [`/v1/searches/${search.id}`, "Search as JSON"],
    [search.result_ready ? `/v1/searches/${search.id}/best` : null, "Best architecture as JSON"], [front(search), "Pareto front as JSON"],
  ];
  return [
    h("div", { class: "heading" }, h("h1", null, search.name ?? search.id), h("span", { "aria-live": "polite" }, pill(search.state)), cancelButton(search, cancel)),
    h("p", { class: "muted" },
      `${spec.strategy.name}${spec.strategy.preset ? ` (${spec.strategy.preset})` : ""} on ${spec.search_space.name} with ${spec.dataset.name}`,
      " · ordered ", format.ago(search.created_at), search.name ? ` · ${search.id}` : "", search.attempt > 1 ? ` · attempt ${search.attempt}` : ""),
    search.state_reason ? h("p", { class: `reason ${search.state}` }, search.state_reason) : null,
    h("p", { class: "links" }, links.filter(([href]) => safeLink(href)).map(([href, text]) => h("a", { href: safeLink(href) }, text))),
  ];
}

// The front over the costs that nsga2 was told to keep low; else over the first budget's metric.
function front({ id, spec: { strategy } }) {
  const costs = ((strategy.name === "nsga2" && strategy.options?.costs) || []).map((metric) => `cost=${encodeURIComponent(metric)}`);
  return `/v1/searches/${id}/pareto${costs.length ? `?${costs.join("&")}` : ""}`;
}

function cancelButton(search, cancel) {
  if (ENDED.includes(search.state)) return null;
  if (search.cancel_requested) return h("span", { class: "muted" }, "cancelling …");
  const act = async (event) => {
    if (!confirm("Cancel this search? Trials that have ended are kept.")) return;
    event.target.disabled = true;
    await cancel().catch((error) => event.target.replaceWith(h("span", { class: "reason failed", role: "alert" }, error.message)));
  };
  return h("button", { type: "button", class: "cancel", onclick: act }, "Cancel search");
}

// Once there is a result, everything compared here was measured on the report split; until then, on the select split.
function tiles(search, result) {
  const metric = search.spec.objective;
  const cost = keyOf((search.info.budgets ?? search.spec.budgets)[0]);
  const best = flat(result?.metrics ?? search.best?.metrics ?? {});
  const base = flat(result?.base_metrics ?? search.base);
  const control = (arm) => (result ? result.controls?.[arm] : search.controls[arm]?.metrics)?.[metric];
  const name = format.metricName(metric);
  const versus = (arm) => tile(`Against ${arm}`, format.difference(metric, best[metric] - control(arm)), `${arm} control ${format.score(metric, control(arm))}`,
    (metric === "loss" ? -1 : 1) * (best[metric] - control(arm)));
  const seconds = search.started_at ? format.since(search.started_at, search.finished_at) : NaN;
  return [
    tile(`${result ? "Reported" : "Best"} ${name}`, format.score(metric, best[metric]),
      metric in base ? `${format.difference(metric, best[metric] - base[metric])} vs full ${format.score(metric, base[metric])}` : "full network not scored yet"),
    tile(format.capital(format.metricName(cost)), format.count(best[cost]), cost in base ? `${format.percent(best[cost], base[cost])} of full ${format.count(base[cost])}` : ""),
    versus("uniform"), versus("random"), search.spec.controls?.includes("global") ? versus("global") : null,
    h("div", { class: "tile" }, h("dt", null, "Evaluations"), h("dd", null, progress(search.progress))),
    tile("Time", format.duration(seconds), busy(search)),
  ];
}

function busy({ state, progress: { running, slots } }) {
  if (ENDED.includes(state)) return "";
  return slots ? `${running} of ${slots} slots busy` : `${running} running now`;
}

function tile(name, value, note, sign) {
  const tone = sign > 0 ? "good" : sign < 0 ? "bad" : "";
  return h("div", { class: "tile" }, h("dt", null, name), h("dd", null, h("strong", { class: tone }, value), h("span", { class: "muted small" }, note)));
}

function drawCharts(view, search, trials) {
  const data = facts(search, trials);
  const shown = [data.scored.length, data.slow.length, data.stopped.length, data.failed, data.best?.number, data.base, data.budgets];
  const wide = (element) => Math.max(260, Math.floor(element.clientWidth));
  update(view.scatter, [shown, wide(view.scatter)], () => scatter(data, wide(view.scatter)));
  update(view.history, [shown, wide(view.history)], () => history(data, wide(view.history)));
  drawWidths(view, search, data, [shown, wide(view.lines), wide(view.weights)]);
  const open = trials.filter((trial) => trial.state === "running").map((trial) => [trial.number, trial.attempt]);
  update(view.time, [trials.length, shown, open, search.finished_at, wide(view.time)], () => timeline(search, trials, Date.now(), wide(view.time)));
  const devices = search.info.latency ?? {};
  view.latencySection.hidden = !Object.keys(devices).length;
  const half = Math.max(260, Math.floor((wide(view.latency) - 16) / 2));
  update(view.latency, [shown, devices, half], () => latencyCharts(devices, data, half));
  const groups = bestGroups(search, view.result);
  view.widthTable.hidden = !groups.length;
  update(view.bars, [groups, wide(view.bars)], () =>
    (groups.length ? widthBars(groups, wide(view.bars)) : h("p", { class: "muted" }, "No candidate within the budget has been scored yet.")));
  update(view.widths, groups, () => groups.map(({ name, kept, full }) =>
    h("tr", null, h("th", { scope: "row" }, name), [kept, full, format.percent(kept, full)].map((value) => h("td", { class: "number" }, `${value}`)))));
}

function drawWidths(view, search, data, shown) {
  const { names = [], full = [] } = search.info.space ?? {};
  update(view.lines, shown, ([, width]) => {
    const found = importances(data, names);
    update(view.weights, shown, () => importanceBars(found, data, shown[2]));
    return parallel(data, names.map((name, i) => ({ name, full: full[i] })), found, width);
  });
}

function bestGroups(search, result) {
  if (result?.groups) return result.groups.filter((group) => !group.frozen).map((group) => ({ name: group.name, kept: group.width, full: group.full_width }));
  const { names = [], full = [] } = search.info.space ?? {};
  return search.best ? names.map((name, i) => ({ name, kept: search.best.widths[name], full: full[i] })) : [];
}

function fileList(items) {
  if (!items.length) return h("p", { class: "muted" }, "Weights and exports appear here when the search has finished.");
  return h("ul", { class: "files" }, items.map((file) => h("li", null,
    h("a", { href: safeLink(file.href), download: true }, file.name), ` ${format.bytes(file.size)} `,
    h("code", { class: "muted small" }, `sha256 ${file.sha256}`))));
}
