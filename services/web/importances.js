// Which groups' widths go together with the score: rank correlations over the scored trials.

import { h, s } from "./dom.js";
import * as format from "./format.js";
import { frame, legend } from "./plot.js";

const FEWEST_TRIALS = 10;
const MOST_TRIALS = 1000; // so that the work stays small however long a search is
const MOST_BARS = 16;
const LONGEST_NAME = 22;

// Spearman's correlation of each group's width and how good the score is, strongest first; groups of one width are left out.
export function importances({ scored, metric, better }, names) {
  if (scored.length < FEWEST_TRIALS) return [];
  const used = evenly(scored, MOST_TRIALS);
  const sign = better(1, 0) ? 1 : -1;
  const scores = ranks(used.map((trial) => sign * trial.metrics[metric]));
  return names.map((name) => ({ name, value: correlation(ranks(used.map((trial) => trial.widths[name])), scores), trials: used.length }))
    .filter(({ value }) => Number.isFinite(value))
    .sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
}

export const evenly = (items, most) =>
  (items.length <= most ? items : Array.from({ length: most }, (_, i) => items[Math.floor((i * items.length) / most)]));

// Places in ascending order; equal values share the mean of theirs.
function ranks(values) {
  const order = values.map((value, i) => [value, i]).sort((a, b) => a[0] - b[0]);
  const found = new Array(values.length);
  for (let start = 0, end; start < order.length; start = end) {
    for (end = start + 1; end < order.length && order[end][0] === order[start][0];) end += 1;
    for (let i = start; i < end; i += 1) found[order[i][1]] = (start + end - 1) / 2;
  }
  return found;
}

function correlation(a, b) {
  const middle = (a.length - 1) / 2;
  let [both, ofA, ofB] = [0, 0, 0];
  a.forEach((rank, i) => {
    both += (rank - middle) * (b[i] - middle);
    ofA += (rank - middle) ** 2;
    ofB += (b[i] - middle) ** 2;
  });
  return both / Math.sqrt(ofA * ofB);
}

export function importanceBars(found, data, width) {
  const count = data.scored.length;
  if (count < FEWEST_TRIALS) return h("p", { class: "muted" }, `Shown from ${FEWEST_TRIALS} scored trials on; there are ${count}.`);
  if (!found.length) return h("p", { class: "muted" }, "All trials scored the same, or no group's width varied.");
  const bars = found.slice(0, MOST_BARS);
  const { trials } = bars[0];
  const chance = 1.96 / Math.sqrt(trials - 1);
  const short = (name) => (name.length > LONGEST_NAME ? `…${name.slice(1 - LONGEST_NAME)}` : name);
  const row = (i) => bars.length - i;
  const area = frame({
    width, height: 68 + bars.length * 19, x: [0, 1], y: [0.5, bars.length + 0.5], yStep: 1, yTicks: bars.length,
    xText: format.tick, yText: (place) => short(bars[row(place)].name), xLabel: "rank correlation with the score →", yLabel: "",
    label: `Bar chart of rank correlations with the score, strongest of ${found.length} groups first: ${bars.slice(0, 3).map(told).join(", ")}.`,
    margin: { left: 20 + 6.4 * Math.max(...bars.map(({ name }) => short(name).length)), top: 8 },
  });
  area.plot.append(
    ...bars.map((bar, i) => s("rect", {
      class: `share ${bar.value < 0 ? "falls" : "rises"}`, x: area.left, width: area.px(Math.abs(bar.value)) - area.left, y: area.py(row(i)) - 6.5, height: 13, rx: 1.5,
    }, s("title", null, told(bar)))),
    s("line", { class: "base", x1: area.px(chance), x2: area.px(chance), y1: area.top, y2: area.bottom }));
  const more = found.length > bars.length ? ` The strongest ${bars.length} of ${found.length} groups.` : "";
  return [area.plot,
    legend([["swatch-share rises", "wider went with better"], ["swatch-share falls", "wider went with worse"], ["line-base", "one in twenty is longer by chance"]]),
    h("p", { class: "muted small" }, `Over ${trials} scored trials.${more}`)];
}

const told = ({ name, value }) => `${name} ${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
