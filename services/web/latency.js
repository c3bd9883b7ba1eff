// Latency on devices: how well predictions meet measurements, and what milliseconds have to do with MACs.

import { h, s } from "./dom.js";
import * as format from "./format.js";
import { extent, frame, legend, mark } from "./plot.js";

const METRIC = "latency_ms";
const NAMES = { search: "search", slow: "too slow, so not scored", stopped: "stopped early, so not scored" };

// The name under which trials report what a budget bounds.
export const keyOf = ({ metric, device }) => (metric === METRIC ? `${METRIC}@${device ?? "local"}` : metric);

// A result tells latencies by device; trials and drawings know them by name.
export function flat(metrics) {
  const byDevice = Object.entries(metrics?.[METRIC] ?? {}).map(([device, ms]) => [`${METRIC}@${device}`, ms]);
  return { ...metrics, ...Object.fromEntries(byDevice) };
}

export function latencyCharts(devices, data, width) {
  return Object.entries(devices).map(([name, about]) => h("div", { class: "device" },
    h("h3", null, `${name}: ${conditions(about)}`), h("p", { class: "muted small" }, verdict(about)),
    h("div", { class: "pair" }, checkPlot(name, about, width), againstMacs(name, data, about, width))));
}

// How trials know what a metric says of them, where it is a device's latency.
export function source(devices, metric) {
  const about = devices[metric.split("@")[1]];
  return about ? (about.trusted ? "predicted" : "measured") : "";
}

const conditions = ({ conditions: { runtime, threads, batch, dtype }, version, full_ms: full }) =>
  `${runtime} ${version}, batch ${batch}, ${threads} thread${threads > 1 ? "s" : ""}, ${dtype}; full network ${format.count(full)} ms`;

function verdict({ check, trusted, tolerance, timed, noise, unsettled = 0 }) {
  const found = `Predictions miss measurements of ${check.measured.length} other networks by ${format.percent(check.mape, 1)} on average, ` +
    `${format.percent(check.worst, 1)} at most (R² ${check.r2.toFixed(3)}, rank correlation ${check.rank_correlation.toFixed(3)}); ` +
    `${timed} measurements, half of them to ${format.percent(noise, 1)} or better; ${unsettled} did not settle.`;
  if (trusted) return found;
  const why = check.mape > tolerance ? `Predictions miss by more than ${format.percent(tolerance, 1)}` : "These are too few networks to trust predictions";
  return `${found} ${why}, so every candidate is measured.`;
}

function checkPlot(name, { check: { predicted, measured } }, width) {
  const both = extent([...predicted, ...measured], 0.08);
  const area = frame({
    width, height: 300, x: both, y: both, xText: format.tick, yText: format.tick, xLabel: "predicted, ms →", yLabel: "↑ measured, ms",
    label: `Scatter plot of measured against predicted latency of ${measured.length} networks on ${name}.`,
  });
  area.plot.append(
    s("line", { class: "base", x1: area.px(both[0]), y1: area.py(both[0]), x2: area.px(both[1]), y2: area.py(both[1]) }),
    ...measured.map((ms, i) => mark("search", area.px(predicted[i]), area.py(ms), `predicted ${format.count(predicted[i])} ms, measured ${format.count(ms)} ms`)));
  return h("div", null, area.plot, legend([["search", "a network that nothing was fitted to"], ["line-base", "equal"]]));
}

function againstMacs(name, { scored, slow, stopped, base }, about, width) {
  const key = `${METRIC}@${name}`;
  const how = source({ [name]: about }, key);
  const known = (trials) => trials.filter(({ metrics }) => key in metrics && "macs" in metrics);
  const unscored = (trials, arm) => known(trials).map((trial) => ({ ...trial, arm }));
  const points = [...known(scored), ...unscored(slow, "slow"), ...unscored(stopped, "stopped")];
  if (!points.length) return h("p", { class: "muted" }, "The first trial has not been scored yet.");
  const all = key in base ? [...points.map(({ metrics }) => metrics), base] : points.map(({ metrics }) => metrics);
  const area = frame({
    width, height: 300, x: extent(all.map(({ macs }) => macs), 0.08), y: extent(all.map((metrics) => metrics[key]), 0.08),
    xText: format.tick, yText: format.tick, xLabel: "MACs →", yLabel: `↑ latency, ms, ${how}`,
    label: `Scatter plot of latency on ${name} against MACs of ${points.length} trials; ${how}.`,
  });
  area.plot.append(
    ...points.map(({ arm, name: trial, metrics }) => mark(arm, area.px(metrics.macs), area.py(metrics[key]),
      `${trial}: ${format.count(metrics.macs)} MACs, ${format.count(metrics[key])} ms`)),
    ...(key in base ? [mark("base", area.px(base.macs), area.py(base[key]), "full network")] : []));
  const arms = ["search", "random", "uniform", "global", "slow", "stopped"].filter((arm) => points.some((point) => point.arm === arm));
  return h("div", null, area.plot, legend([...arms.map((arm) => [arm, NAMES[arm] ?? `${arm} control`]), ["base", "full network"]]));
}
