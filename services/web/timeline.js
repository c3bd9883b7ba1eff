// When each trial was evaluated: one bar per trial, in as many rows as trials ran at once.

import { h, s } from "./dom.js";
import * as format from "./format.js";
import { frame, legend } from "./plot.js";

const MOST_BARS = 1000;
const STATES = ["complete", "stopped", "infeasible", "failed", "cancelled", "running"];
const UNITS = [[86400, "days", 2], [3600, "hours", 2], [60, "minutes", 2], [1, "seconds", 0]];

export function timeline(search, trials, now, width) {
  const all = spans(search, trials, now);
  if (!all.length) return h("p", { class: "muted" }, "No trial has been started yet.");
  const bars = all.slice(-MOST_BARS);
  const rows = spread(bars);
  const from = Math.min(...bars.map((bar) => bar.from));
  const to = Math.max(...bars.map((bar) => bar.to));
  const [unit, name] = UNITS.find(([size, , least]) => to - from >= size * least);
  const pitch = Math.max(5, Math.min(28, 300 / rows));
  const counts = STATES.map((state) => [state, bars.filter((bar) => bar.trial.state === state).length]).filter(([, count]) => count);
  const area = frame({
    width, height: 68 + rows * pitch, x: [from / unit, Math.max(to, from + 1e-3) / unit], y: [0.5, rows + 0.5], yStep: 1, yTicks: Math.min(rows, 8),
    xText: format.tick, yText: (row) => `${rows + 1 - row}`, xLabel: `${name} since the start →`, yLabel: "slot",
    label: `Timeline of ${bars.length} trials in ${rows} parallel slots; ${counts.map(([state, count]) => `${count} ${state}`).join(", ")}.`,
    margin: { left: 34 },
  });
  area.plot.append(...bars.map((bar) => drawn(area, bar, rows, unit, pitch)));
  const note = bars.length < all.length && h("p", { class: "muted small" }, `The last ${bars.length} of ${all.length} trials.`);
  return [area.plot, legend(counts.map(([state, count]) => [`swatch-span ${state}`, `${state} (${count})`])), note];
}

// Trials that were started, by when; seconds since the search was.
function spans(search, trials, now) {
  const seconds = (time) => (new Date(time) - new Date(search.started_at ?? search.created_at)) / 1000;
  return trials.filter((trial) => trial.started_at && STATES.includes(trial.state))
    .map((trial) => {
      const from = seconds(trial.started_at);
      return { trial, from, to: Math.max(from, seconds(trial.ended_at ?? search.finished_at ?? now)) };
    })
    .sort((a, b) => a.from - b.from);
}

// Gives each bar the first row that is free by then; returns the number of rows.
function spread(bars) {
  const free = [];
  for (const bar of bars) {
    const row = free.findIndex((end) => end <= bar.from);
    bar.row = row < 0 ? free.length : row;
    free[bar.row] = bar.to;
  }
  return free.length;
}

function drawn(area, { trial, from, to, row }, rows, unit, pitch) {
  const x = area.px(from / unit);
  const long = area.px(to / unit) - x;
  const again = trial.attempt > 1 ? `, attempt ${trial.attempt}` : "";
  return s("rect", {
    class: `span ${trial.state}`, x: x.toFixed(1), y: (area.py(rows - row) - pitch * 0.4).toFixed(1),
    width: Math.max(1, long > 4 ? long - 1 : long).toFixed(1), height: (pitch * 0.8).toFixed(1), rx: Math.min(2, pitch / 4),
  }, s("title", null, `${trial.name} (${trial.arm}): ${trial.state}${again}, ${format.duration(to - from)}`));
}
