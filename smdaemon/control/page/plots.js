// Small plots of the last hour, drawn by uPlot.

import { html, useEffect, useRef, useState } from "./vendor/preact.js";
import { bytes, duration } from "./format.js";
import { onTheme } from "./theme.js";

const HEIGHT = 80;
const LEAST_SECONDS = 120;

/** One series over time; `value` takes it from a sample, and `text` says it in words. The highest that can be is `limit`, where there is one. */
function Plot({ title, samples, value, text, limit }) {
  const place = useRef(null);
  const plot = useRef(null);
  const [pointed, setPointed] = useState(null);
  useEffect(() => {
    const made = new window.uPlot(options(place.current, setPointed), [[], []], place.current);
    plot.current = made;
    const resized = new ResizeObserver(() => made.setSize({ width: place.current.clientWidth, height: HEIGHT }));
    resized.observe(place.current);
    const forget = onTheme(() => made.redraw(false));
    return () => {
      forget();
      resized.disconnect();
      made.destroy();
    };
  }, []);
  useEffect(() => {
    const times = samples.map((sample) => Date.parse(sample.at) / 1000);
    const values = samples.map(value);
    const newest = times.at(-1) ?? 0;
    plot.current.batch(() => {
      plot.current.setData([times, values], false);
      plot.current.setScale("x", { min: Math.min(times[0] ?? 0, newest - LEAST_SECONDS), max: newest });
      plot.current.setScale("y", { min: 0, max: Math.max(limit || 0, ...values) || 1 });
    });
  }, [samples, limit]);
  const sample = samples[pointed] ?? samples.at(-1);
  return html`<figure class="plot"><figcaption><span>${title}</span>
    <span>${pointed !== null && sample && html`<small>${new Date(sample.at).toLocaleTimeString()}</small> `}<b>${sample ? text(value(sample)) : ""}</b></span>
    </figcaption><div ref=${place}></div></figure>`;
}

function options(place, setPointed) {
  const colour = () => getComputedStyle(place).color;
  return {
    width: place.clientWidth,
    height: HEIGHT,
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false } },
    scales: { x: { time: true, auto: false }, y: { auto: false } },
    axes: [{ show: false }, { show: false }],
    padding: [6, 0, 2, 0],
    series: [{}, { stroke: colour, fill: () => faint(colour()), width: 1.5, points: { show: (plot) => plot.data[0].length === 1 } }],
    hooks: { setCursor: [(plot) => setPointed(plot.cursor.idx ?? null)] },
  };
}

function faint(colour) {
  return colour.replace("rgb(", "rgba(").replace(")", ", 0.15)");
}

/** All plots of the daemon. */
export function Plots({ store }) {
  const { samples, status } = store;
  return html`<section class="plots" aria-label="The last hour">
    <${Plot} title="Written" samples=${samples} value=${(sample) => sample.bytes_per_second} text=${(value) => `${bytes(value)}/s`} />
    <${Plot} title="Open jobs" samples=${samples} value=${(sample) => sample.open_jobs} text=${(value) => value.toLocaleString()} />
    <${Plot} title="Host memory" samples=${samples} value=${(sample) => sample.host_memory_used_bytes} text=${bytes} limit=${status.host_memory_bytes} />
    <${Plot} title="Free on disk" samples=${samples} value=${(sample) => sample.disk_free_bytes} text=${bytes} />
    <${Plot} title="Trainer stall" samples=${samples} value=${(sample) => sample.stall_seconds} text=${stall} />
  </section>`;
}

function stall(seconds) {
  if (!seconds) return "none";
  return seconds < 1 ? `${(seconds * 1000).toFixed(1)} ms` : duration(seconds);
}
