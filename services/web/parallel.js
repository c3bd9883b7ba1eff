// Parallel coordinates: each line is a trial, through its widths in the order of the network, to its score.

import { h, s } from "./dom.js";
import * as format from "./format.js";
import { evenly } from "./importances.js";
import { frame, legend } from "./plot.js";

const MOST_LINES = 150;
const LONGEST_NAME = 18;
const PITCH = 30; // pixels that an axis with its name takes at least
const FIFTHS = ["best fifth", "second fifth", "middle fifth", "fourth fifth", "worst fifth"];

// groups: [{name, full}] in order of the network; weights: what `importances` found, to choose where not all fit.
export function parallel(data, groups, weights, width) {
  const { metric, better, scored } = data;
  if (!scored.length || !groups.length) return h("p", { class: "muted" }, "The first trial has not been scored yet.");
  const sign = better(1, 0) ? 1 : -1;
  const ranked = [...scored].sort((a, b) => sign * (b.metrics[metric] - a.metrics[metric]));
  const lines = evenly(ranked, MOST_LINES);
  const axes = chosen(groups, weights, Math.max(2, Math.floor((width - 150) / PITCH)));
  const short = (name) => (name.length > LONGEST_NAME ? `…${name.slice(1 - LONGEST_NAME)}` : name);
  const below = 24 + 5 * Math.max(...axes.map(({ name }) => short(name).length));
  const area = frame({
    width, height: 270 + below, x: [0, axes.length], y: [0, 1], xStep: 1, xText: () => "", yText: (part) => format.percent(part, 1, 0),
    xLabel: "", yLabel: "↑ channels kept", margin: { right: 72, bottom: below },
    label: `Parallel coordinates of ${lines.length} trials over ${axes.length} groups, coloured by ${format.metricName(metric)}.`,
  });
  const scores = lines.map((trial) => trial.metrics[metric]);
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  const worst = better(low, high) ? high : low;
  const place = (value) => area.py(low === high ? 0.5 : (value - worst) / (low + high - 2 * worst));
  area.plot.append(
    ...axes.map((group, i) => axis(area, group, i, short)),
    ...scoreAxis(area, metric, [...new Set([low, high])], place),
    ...lines.map((trial, i) => path(area, trial, axes, metric, place, Math.floor((5 * i) / lines.length))).reverse(),
    data.best ? path(area, data.best, axes, metric, place, "best") : "");
  return [area.plot, legend(entries(lines, data)), note(lines.length, scored.length, axes.length, groups.length)];
}

// Where not all groups fit, those whose widths matter most, still in the order of the network.
function chosen(groups, weights, most) {
  if (groups.length <= most) return groups;
  const strength = new Map(weights.map(({ name, value }) => [name, Math.abs(value)]));
  const kept = new Set([...groups].sort((a, b) => (strength.get(b.name) ?? 0) - (strength.get(a.name) ?? 0)).slice(0, most));
  return groups.filter((group) => kept.has(group));
}

function axis(area, { name, full }, i, short) {
  const x = area.px(i);
  return s("g", { class: "group coordinate" },
    s("title", null, `${name}: ${full} channels`),
    s("line", { class: "rail", x1: x, x2: x, y1: area.top, y2: area.bottom }),
    s("text", { class: "name", transform: `translate(${x + 3} ${area.bottom + 12}) rotate(-55)`, "text-anchor": "end" }, short(name)));
}

function scoreAxis(area, metric, ends, place) {
  return [
    s("line", { class: "axis", x1: area.right, x2: area.right, y1: area.top, y2: area.bottom }),
    ...ends.map((value) => s("text", { x: area.right + 7, y: place(value), dy: "0.32em" }, format.score(metric, value))),
    s("text", { class: "axis-label", x: area.right, y: area.top - 9, "text-anchor": "middle" }, format.metricName(metric)),
  ];
}

function path(area, trial, axes, metric, place, fifth) {
  const points = axes.map(({ name, full }, i) => `${area.px(i).toFixed(1)} ${area.py(trial.widths[name] / full).toFixed(1)}`);
  points.push(`${area.right} ${place(trial.metrics[metric]).toFixed(1)}`);
  return s("path", { class: `line ${fifth === "best" ? "of-best" : `fifth-${fifth}`}`, d: `M${points.join("L")}` },
    s("title", null, `${trial.name}: ${format.score(metric, trial.metrics[metric])} ${format.metricName(metric)}`));
}

function entries(lines, { metric, best }) {
  const fifths = FIFTHS.map((name, fifth) => [name, fifth, lines.filter((_, i) => Math.floor((5 * i) / lines.length) === fifth)])
    .filter(([, , members]) => members.length)
    .map(([name, fifth, members]) => [`line-fifth-${fifth}`, `${name}, to ${format.score(metric, members.at(-1).metrics[metric])}`]);
  const told = lines.length < FIFTHS.length ? [] : fifths;
  return best ? [["line-of-best", `best within budget, ${format.score(metric, best.metrics[metric])}`], ...told] : told;
}

function note(lines, trials, axes, groups) {
  const said = [
    lines < trials && `${lines} of ${trials} scored trials, evenly by rank.`,
    axes < groups && `${axes} of ${groups} groups: those whose widths go most with the score.`,
  ].filter(Boolean);
  return said.length ? h("p", { class: "muted small" }, said.join(" ")) : null;
}
