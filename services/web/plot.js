// The frame of a plot: scales, ticks, axes. Drawn at the pixel size it is shown at, so that text keeps its size.

import { h, s } from "./dom.js";

export function ticks(low, high, wanted, least = 0) {
  const rough = Math.max(least, (high - low) / wanted);
  const power = 10 ** Math.floor(Math.log10(rough));
  const fits = (size) => size >= rough && (!least || Number.isInteger(size / least));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find(fits);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
}

export function extent(values, padding = 0.06) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const pad = (high - low || Math.abs(high) || 1) * padding;
  return [low - pad, high + pad];
}

export function frame({ width, height, x, y, xLabel, yLabel, xStep, yStep, yTicks = 5, xText, yText, label, margin = {} }) {
  const m = { left: 58, right: 18, top: 22, bottom: 46, ...margin };
  const right = width - m.right;
  const bottom = height - m.bottom;
  const scale = ([low, high], from, to) => (value) => from + ((value - low) / (high - low)) * (to - from);
  const px = scale(x, m.left, right);
  const py = scale(y, bottom, m.top);
  const plot = s("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
  plot.append(
    ...ticks(...y, yTicks, yStep).map((value) => s("g", { class: "tick" },
      s("line", { x1: m.left, x2: right, y1: py(value), y2: py(value) }),
      s("text", { x: m.left - 8, y: py(value), dy: "0.32em", "text-anchor": "end" }, yText(value)))),
    ...ticks(...x, Math.max(2, Math.floor((right - m.left) / 70)), xStep).map((value) => s("g", { class: "tick" },
      s("line", { x1: px(value), x2: px(value), y1: bottom, y2: bottom + 5 }),
      s("text", { x: px(value), y: bottom + 18, "text-anchor": "middle" }, xText(value)))),
    s("line", { class: "axis", x1: m.left, x2: right, y1: bottom, y2: bottom }),
    s("text", { class: "axis-label", x: right, y: height - 8, "text-anchor": "end" }, xLabel),
    s("text", { class: "axis-label", x: 4, y: 12 }, yLabel));
  return { plot, px, py, left: m.left, right, top: m.top, bottom };
}

const star = Array.from({ length: 10 }, (_, i) => {
  const angle = (i * Math.PI) / 5;
  const radius = i % 2 ? 4.2 : 10.5;
  return `${(radius * Math.sin(angle)).toFixed(2)},${(-radius * Math.cos(angle)).toFixed(2)}`;
}).join(" ");

const SHAPES = {
  search: () => s("circle", { r: 4.5 }),
  random: () => s("rect", { x: -4, y: -4, width: 8, height: 8 }),
  uniform: () => s("polygon", { points: "0,-6 5.6,4.5 -5.6,4.5" }),
  global: () => s("polygon", { points: "0,6 5.6,-4.5 -5.6,-4.5" }),
  base: () => s("polygon", { points: "0,-6.500 6.500,0 0,6.500 -6.500,0" }),
  best: () => s("polygon", { points: star }),
  slow: () => s("path", { d: "M-4 -4L4 4M-4 4L4 -4" }),
  stopped: () => s("path", { d: "M-5 0L5 0M0 -5L0 5" }),
};

// A mark whose shape, not only its colour, says what it stands for.
export function mark(kind, x, y, title) {
  const shape = SHAPES[kind]();
  return s("g", { class: `mark ${kind}`, transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` }, title && s("title", null, title), shape);
}

export function legend(entries) {
  return h("ul", { class: "legend" }, entries.map(([kind, text]) => h("li", null, key(kind), text)));
}

function key(kind) {
  const box = { class: "key", viewBox: "0 0 22 20", width: 22, height: 20, "aria-hidden": "true" };
  if (kind in SHAPES) return s("svg", box, mark(kind, 11, 10));
  if (kind.startsWith("swatch-")) return s("svg", box, s("rect", { class: kind.replace("swatch-", ""), x: 3, y: 5, width: 16, height: 11, rx: 2 }));
  return s("svg", box, s("line", { class: `line ${kind.replace("line-", "")}`, x1: 1, x2: 21, y1: 10, y2: 10 }));
}
