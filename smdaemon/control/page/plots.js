// Small plots of the last hour, drawn by uPlot.

import { html, useEffect, useRef } from "./vendor/preact.js";
import { bytes, duration } from "./format.js";

const HEIGHT = 90;

/** One series over time. `values` are by sample; `text` says a value in words. */
export function Plot({ title, samples, value, text, limit }) {
  const place = useRef(null);
  const plot = useRef(null);
  const newest = samples.length ? value(samples.at(-1)) : 0;
  useEffect(() => {
    const made = new window.uPlot(options(title, text, place.current.clientWidth), [[], []], place.current);
    plot.current = made;
    const resized = new ResizeObserver(() => made.setSize({ width: place.current.clientWidth, height: HEIGHT }));
    resized.observe(place.current);
    return () => {
      resized.disconnect();
      made.destroy();
    };
  }, []);
  useEffect(() => {
    const times = samples.map((sample) => Date.parse(sample.at) / 1000);
    const values = samples.map(value);
    plot.current.setData([times, values], false);
    const highest = Math.max(limit || 0, ...values, 0);
    plot.current.batch(() => {
      plot.current.setScale("x", { min: times[0] ?? 0, max: times.at(-1) ?? 1 });
      plot.current.setScale("y", { min: 0, max: highest || 1 });
    });
  }, [samples.at(-1)?.at, samples.length, limit]);
  return html`<figure class="plot"><figcaption>${title} <b>${text(newest)}</b></figcaption><div ref=${place}></div></figure>`;
}

function options(title, text, width) {
  const style = getComputedStyle(document.documentElement);
  const colour = style.getPropertyValue("--accent").trim();
  return {
    width,
    height: HEIGHT,
    class: "small",
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false } },
    scales: { x: { time: true, auto: false }, y: { auto: false } },
    axes: [{ show: false }, { show: false }],
    padding: [4, 0, 4, 0],
    series: [{}, { label: title, stroke: colour, fill: `${colour}22`, width: 1.5, points: { show: false } }],
    hooks: { setCursor: [(plot) => told(plot, text)] },
  };
}

/** The value under the cursor, as the plot's title. */
function told(plot, text) {
  const at = plot.cursor.idx;
  const time = plot.data[0][at];
  plot.root.title = time === undefined ? "" : `${new Date(time * 1000).toLocaleTimeString()}: ${text(plot.data[1][at])}`;
}

/** All plots of the daemon. */
export function Plots({ store }) {
  const { samples, status } = store;
  return html`<section class="plots" aria-label="The last hour">
    <${Plot} title="Written" samples=${samples} value=${(sample) => sample.bytes_per_second} text=${(value) => `${bytes(value)}/s`} />
    <${Plot} title="Host memory" samples=${samples} value=${(sample) => sample.host_memory_used_bytes} text=${bytes} limit=${status.host_memory_bytes} />
    <${Plot} title="Free on disk" samples=${samples} value=${(sample) => sample.disk_free_bytes} text=${bytes} />
    <${Plot} title="Trainer stall" samples=${samples} value=${(sample) => sample.stall_seconds} text=${(value) => (value ? duration(value) : "none")} />
    <${Plot} title="Open jobs" samples=${samples} value=${(sample) => sample.open_jobs} text=${(value) => value.toLocaleString()} />
  </section>`;
}
