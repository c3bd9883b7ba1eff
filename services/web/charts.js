// The three drawings of a search: its trials, the best so far, and the best architecture.

import { h, s } from "./dom.js";
import * as format from "./format.js";
import { keyOf, source } from "./latency.js";
import { extent, frame, legend, mark } from "./plot.js";

const LONGEST_NAME = 18;
const ARMS = ["random", "global", "uniform", "search"];
const NAMES = { search: "search", random: "random control", uniform: "uniform control", global: "global control" };

// What all drawings need to know of a search: its metrics, base, budgets, and the trials that have a score.
export function facts(search, trials) {
  const metric = search.spec.objective;
  const budgets = (search.info.budgets ?? []).map((budget) => ({ ...budget, metric: keyOf(budget) }));
  const cost = budgets[0]?.metric ?? keyOf(search.spec.budgets[0]);
  const known = trials.some((trial) => cost in trial.metrics) || cost in search.base;
  const axis = known ? cost : "macs";
  const scored = trials.filter((trial) => ARMS.includes(trial.arm) && trial.state === "complete" && metric in trial.metrics);
  return {
    metric,
    axis,
    better: (a, b) => (metric === "loss" ? a < b : a > b),
    base: search.base,
    budgets,
    best: search.best,
    from: source(search.info.latency ?? {}, axis),
    scored,
    slow: trials.filter((trial) => ARMS.includes(trial.arm) && trial.state === "infeasible"),
    stopped: trials.filter((trial) => ARMS.includes(trial.arm) && trial.state === "stopped"),
    failed: trials.filter((trial) => trial.state === "failed").length,
  };
}

const within = (trial, budgets) => budgets.every(({ metric, min, max }) =>
  !(metric in trial.metrics) || (trial.metrics[metric] >= (min ?? 0) && trial.metrics[metric] <= (max ?? Infinity)));

export function scatter(data, width) {
  const { metric, axis, base, budgets, best, from } = data;
  const points = data.scored.filter((trial) => axis in trial.metrics);
  const limits = budgets.filter((budget) => budget.metric === axis);
  const bounds = limits.flatMap(({ min, max }) => [min, max]).filter((value) => value > 0);
  const x = [...points.map((trial) => trial.metrics[axis]), ...bounds];
  const y = points.map((trial) => trial.metrics[metric]);
  if (metric in base) y.push(base[metric]);
  if (!points.length || !bounds.length) x.push(base[axis] ?? 1);
  if (!x.length || !y.length) return h("p", { class: "muted" }, "The first trial has not been scored yet.");
  const area = frame({
    width, height: 360, x: extent(x, 0.08), y: extent(y, 0.1), xText: format.tick,
    yText: (value) => format.score(metric, value, 1), xLabel: `${format.metricName(axis)}${from && `, ${from}`} →`, yLabel: `↑ ${format.metricName(metric)}`,
    label: describe(data, points),
  });
  area.plot.append(
    ...limits.flatMap((budget) => budgetLine(area, budget)),
    ...(metric in base ? baseMark(area, data) : []),
    ...ARMS.flatMap((arm) => points.filter((trial) => trial.arm === arm)).map((trial) =>
      mark(trial.arm, area.px(trial.metrics[axis]), area.py(trial.metrics[metric]), sentence(trial, metric, axis))),
    ...(best && axis in best.metrics ? [bestMark(area, data)] : []));
  return [area.plot, scatterLegend(data, points)];
}

function budgetLine(area, { max, min }) {
  return [["≤", max], ["≥", min]].filter(([, value]) => value > 0).flatMap(([sign, value]) => {
    const at = area.px(value);
    const [from, to] = sign === "≤" ? [at, area.right] : [area.left, at];
    const inner = at > (area.left + area.right) / 2;
    return [
      s("rect", { class: "beyond", x: from, y: area.top, width: Math.max(0, to - from), height: area.bottom - area.top }),
      s("line", { class: "budget", x1: at, x2: at, y1: area.top, y2: area.bottom }),
      s("text", { class: "budget-label", x: at + (inner ? -6 : 6), y: area.bottom - 8, "text-anchor": inner ? "end" : "start" },
        `budget ${sign} ${format.count(value)}`),
    ];
  });
}

function baseMark(area, { metric, axis, base }) {
  const at = area.py(base[metric]);
  const px = area.px(base[axis]);
  const inside = px >= area.left && px <= area.right;
  const cost = axis in base ? ` at ${format.count(base[axis])} ${format.metricName(axis)}` : "";
  return [
    s("line", { class: "base", x1: area.left, x2: area.right, y1: at, y2: at }),
    s("text", { class: "base-label", x: area.left + 6, y: at - 6 }, `full network ${format.score(metric, base[metric])}${cost}`),
    inside ? mark("base", px, at, `full network: ${format.score(metric, base[metric])}${cost}`) : "",
  ];
}

function bestMark(area, { metric, axis, best }) {
  return mark("best", area.px(best.metrics[axis]), area.py(best.metrics[metric]), `best so far: ${sentence(best, metric, axis)}`);
}

const sentence = (trial, metric, axis) =>
  `${trial.name} (${NAMES[trial.arm] ?? trial.arm}): ${format.score(metric, trial.metrics[metric])} ${format.metricName(metric)}, ` +
  `${format.count(trial.metrics[axis])} ${format.metricName(axis)}`;

function describe({ metric, axis, best, failed }, points) {
  const drawn = ARMS.map((arm) => [arm, points.filter((trial) => trial.arm === arm).length]).filter(([arm, size]) => size || arm !== "global")
    .map(([arm, size]) => `${size} of the ${NAMES[arm]}`).join(", ");
  const leader = best ? ` Best within budget: ${sentence(best, metric, axis)}.` : "";
  return `Scatter plot of ${format.metricName(metric)} against ${format.metricName(axis)}. Trials: ${drawn}; ${failed} failed.${leader}`;
}

function scatterLegend({ best, failed, base, metric }, points) {
  const entries = ["search", "random", "uniform", "global"]
    .map((arm) => [arm, points.filter((trial) => trial.arm === arm).length])
    .filter(([, size]) => size)
    .map(([arm, size]) => [arm, `${NAMES[arm]} (${size})`]);
  if (best) entries.push(["best", "best within budget"]);
  if (metric in base) entries.push(["line-base", "full network"]);
  return [legend(entries), failed ? h("p", { class: "muted small failed" }, `${failed} failed ${failed === 1 ? "trial has" : "trials have"} no score and ${failed === 1 ? "is" : "are"} not drawn.`) : null];
}

export function history(data, width) {
  const { metric, base } = data;
  const lines = Object.fromEntries(ARMS.map((arm) => [arm, bestSoFar(data, arm)]));
  const values = ARMS.flatMap((arm) => lines[arm].map(([, value]) => value));
  if (!values.length) return h("p", { class: "muted" }, "No trial within the budget has been scored yet.");
  if (metric in base) values.push(base[metric]);
  const longest = Math.max(2, ...["search", "random"].flatMap((arm) => lines[arm].map(([n]) => n)));
  const area = frame({
    width, height: 360, x: [1, longest], y: extent(values, 0.1), xStep: 1, xText: format.tick, yText: (value) => format.score(metric, value, 1),
    xLabel: "evaluations →", yLabel: `↑ best ${format.metricName(metric)} so far`, label: outline(lines, metric),
  });
  if (metric in base) area.plot.append(...baseLine(area, base[metric], metric));
  const drawn = ARMS.filter((arm) => lines[arm].length);
  area.plot.append(...drawn.map((arm) => stairs(area, arm, lines[arm], longest)));
  return [area.plot, legend(drawn.toReversed().map((arm) => [`line-${arm}`, `${NAMES[arm]} ${format.score(metric, lines[arm].at(-1)[1])}`]))];
}

function bestSoFar({ scored, metric, better, budgets }, arm) {
  const told = scored.filter((trial) => trial.arm === arm).sort((a, b) => (a.ended_at < b.ended_at ? -1 : 1));
  let best = null;
  const line = [];
  told.forEach((trial, i) => {
    const value = trial.metrics[metric];
    if (within(trial, budgets) && (best === null || better(value, best))) best = value;
    if (best !== null) line.push([i + 1, best]);
  });
  return line;
}

// The controls uniform and global have one candidate each: their lines are levels to beat, not a progress.
function stairs(area, arm, line, longest) {
  const points = ["uniform", "global"].includes(arm) ? [[1, line.at(-1)[1]], [longest, line.at(-1)[1]]] : line;
  const path = points.map(([n, value], i) => (i ? `H${area.px(n).toFixed(1)}V${area.py(value).toFixed(1)}` : `M${area.px(n).toFixed(1)} ${area.py(value).toFixed(1)}`));
  return s("path", { class: `line ${arm}`, d: path.join("") });
}

function baseLine(area, value, metric) {
  const at = area.py(value);
  return [
    s("line", { class: "base", x1: area.left, x2: area.right, y1: at, y2: at }),
    s("text", { class: "base-label", x: area.left + 6, y: at - 6 }, `full network ${format.score(metric, value)}`),
  ];
}

function outline(lines, metric) {
  const ends = ARMS.filter((arm) => lines[arm].length).map((arm) => `${NAMES[arm]} ${format.score(metric, lines[arm].at(-1)[1])}`);
  return `Best ${format.metricName(metric)} so far over evaluations; now: ${ends.join(", ")}.`;
}

// groups: [{name, kept, full}] in order of the network
export function widthBars(groups, width) {
  const named = groups.length <= Math.max(8, Math.floor(width / 34));
  const below = named ? 24 + 5 * Math.min(LONGEST_NAME, Math.max(...groups.map((group) => group.name.length))) : 34;
  const highest = Math.max(...groups.map((group) => group.full));
  const area = frame({
    width, height: 220 + below, x: [0, groups.length], y: [0, highest * 1.06], xText: () => "", yText: format.tick,
    xLabel: named ? "" : "groups in order of execution →", yLabel: "↑ channels", label: widthSummary(groups),
    margin: { bottom: below },
  });
  const pitch = (area.right - area.left) / groups.length;
  area.plot.append(...groups.map((group, i) => bar(area, group, i, Math.min(44, pitch * 0.74), pitch, named)));
  return area.plot;
}

function bar(area, { name, kept, full }, i, thick, pitch, named) {
  const middle = area.left + (i + 0.5) * pitch;
  const column = (kind, value) =>
    s("rect", { class: kind, x: middle - thick / 2, width: thick, y: area.py(value), height: area.bottom - area.py(value), rx: 1.5 });
  const short = name.length > LONGEST_NAME ? `…${name.slice(1 - LONGEST_NAME)}` : name;
  return s("g", { class: "group" },
    s("title", null, `${name}: ${kept} of ${full} channels kept (${format.percent(kept, full)})`),
    column("full", full), column("kept", kept),
    named && thick >= 14 && s("text", { class: "value", x: middle, y: area.py(full) - 4, "text-anchor": "middle" }, `${kept}`),
    named && s("text", { class: "name", transform: `translate(${middle + 3} ${area.bottom + 12}) rotate(-55)`, "text-anchor": "end" }, short));
}

function widthSummary(groups) {
  const kept = groups.reduce((sum, group) => sum + group.kept, 0);
  const full = groups.reduce((sum, group) => sum + group.full, 0);
  return `Bar chart of kept and full width of ${groups.length} channel groups; ${kept} of ${full} channels kept.`;
}
