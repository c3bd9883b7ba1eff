// Numbers and times as people read them.

import { h } from "./dom.js";

// A space at which no line breaks stands between a number and its unit.
const GAP = "\u00a0";
const UNITS = [[1e12, `${GAP}T`], [1e9, `${GAP}G`], [1e6, `${GAP}M`], [1e3, `${GAP}k`]];
const NAMES = {
  top1: "top-1", top5: "top-5", loss: "loss", macs: "MACs", flops: "FLOPs", params: "parameters",
  memory_mb: "memory (MB)", latency_ms: "latency (ms)",
};

export function metricName(metric) {
  const [name, device] = metric.split("@");
  return device ? `latency on ${device} (ms)` : NAMES[name] ?? metric;
}
export const isShare = (metric) => metric === "top1" || metric === "top5";
export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

export function count(value) {
  if (!Number.isFinite(value)) return "–";
  const [size, unit] = UNITS.find(([limit]) => Math.abs(value) >= limit) ?? [1, ""];
  const scaled = value / size;
  return (Number.isInteger(value) && size === 1 ? value : scaled.toPrecision(3)) + unit;
}

// The same without the zeros that only show how exact a number is.
export const tick = (value) => count(value).replace(/\.0+(?!\d)|(\.\d*?[1-9])0+(?!\d)/, "$1");

export function score(metric, value, digits = 2) {
  if (!Number.isFinite(value)) return "–";
  return isShare(metric) ? `${(100 * value).toFixed(digits)}${GAP}%` : value.toPrecision(4);
}

export function difference(metric, value) {
  if (!Number.isFinite(value)) return "–";
  const shown = isShare(metric) ? `${Math.abs(100 * value).toFixed(2)}${GAP}points` : Math.abs(value).toPrecision(3);
  return (value < 0 ? "−" : "+") + shown;
}

export const percent = (part, whole, digits = 1) => (whole > 0 ? `${((100 * part) / whole).toFixed(digits)}${GAP}%` : "–");

export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 10) return `${seconds.toFixed(1)}${GAP}s`;
  if (seconds < 90) return `${Math.round(seconds)}${GAP}s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)}${GAP}min`;
  return seconds < 129600 ? `${(seconds / 3600).toFixed(1)}${GAP}h` : `${Math.round(seconds / 86400)}${GAP}d`;
}

export const since = (time, until) => (new Date(until ?? Date.now()) - new Date(time)) / 1000;
const age = (time) => `${duration(Math.max(0, Math.round(since(time))))} ago`;
// A moment as its distance from now; `refreshAges` keeps all of them true without rebuilding anything.
export const ago = (time) => h("time", { datetime: time, title: time }, age(time));
export function refreshAges() {
  for (const element of document.querySelectorAll("time")) element.textContent = age(element.getAttribute("datetime"));
}

export const bytes = (size) => (size < 1000 ? `${size}${GAP}B` : `${count(size)}B`);

const share = (ratio) => `${Number((100 * ratio).toFixed(1))}${GAP}%`;

export function budgetText(budget) {
  const name = metricName(budget.device ? `${budget.metric}@${budget.device}` : budget.metric);
  const parts = [];
  if (budget.max !== null && budget.max !== undefined) parts.push(`${name} ≤ ${count(budget.max)}`);
  if (budget.max_ratio) parts.push(`${name} ≤ ${share(budget.max_ratio)} of full`);
  if (budget.min) parts.push(`${name} ≥ ${count(budget.min)}`);
  if (budget.min_ratio) parts.push(`${name} ≥ ${share(budget.min_ratio)} of full`);
  return parts.join(", ");
}
