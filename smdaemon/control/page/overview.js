// The first page: the daemon, its models, what runs and what waits.

import { html, useState } from "./vendor/preact.js";
import { age, bytes, clock, counted } from "./format.js";
import { JobTable, Meter, Problem, State } from "./parts.js";
import { Plots } from "./plots.js";
import { ENDED, QUEUE_SHOWN, RUNNING, WAITING } from "./store.js";
import { Timeline } from "./timeline.js";

const RECENT = 20;
const SPANS = [1, 6, 24, 168];

export function Overview({ store }) {
  const { status } = store;
  return html`
    <${Problem} error=${status.config_error} what="The last reload was refused, the configuration before it is in force" />
    ${unheard(status).map(([what, error]) => html`<${Problem} key=${what} error=${error} what=${what} />`)}
    <section class="meters" aria-label="The daemon">
      <${Meter} label="Workers" part=${status.workers_busy} whole=${status.workers} text="${status.workers_busy} of ${status.workers} busy" />
      <${Meter} scarce label="Host memory" part=${status.host_memory_used_bytes} whole=${status.host_memory_bytes}
        text="${bytes(status.host_memory_used_bytes)} of ${bytes(status.host_memory_bytes)}" />
      ${status.handoff && html`<${Meter} scarce label=${counted(status.handoff.trainers, "trainer")} part=${status.handoff.memory_used_bytes}
        whole=${status.handoff.memory_bytes} text="${bytes(status.handoff.memory_used_bytes)} of ${bytes(status.handoff.memory_bytes)} shared" />`}
      <${Counts} jobs=${status.jobs} />
    </section>
    <${Plots} store=${store} />
    <${Models} store=${store} />
    <${Queue} store=${store} />`;
}

/** What others are not told: by which notifier, or in which file of theirs. */
function unheard({ notifiers, serving }) {
  const told = notifiers.map(({ name, error }) => [`Notifier ${name}`, error]);
  return [...told, ["TensorFlow Serving's model config file", serving?.error]].filter(([, error]) => error);
}

function Counts({ jobs }) {
  const there = [...RUNNING, ...WAITING, ...ENDED].filter((state) => jobs[state]);
  return html`<p class="counts">${there.map((state) => html`<span key=${state}>${jobs[state].toLocaleString()} <${State} state=${state} /></span>`)}
    ${!there.length && html`<span class="quiet">no jobs yet</span>`}</p>`;
}

function Queue({ store }) {
  const { running, waiting, ended } = store.sorted;
  const there = WAITING.reduce((sum, state) => sum + (store.status.jobs[state] || 0), 0);
  const shown = waiting.slice(0, QUEUE_SHOWN);
  return html`<section aria-label="Queue"><h2>Queue</h2>
    <${JobTable} store=${store} groups=${[
      { title: "running", jobs: running },
      { title: "waiting, the oldest first", jobs: shown, more: there - shown.length },
      { title: "ended last", jobs: ended.slice(0, RECENT) },
    ]} none="Nothing runs, nothing waits, and nothing has ended yet." />
  </section>`;
}

function Models({ store }) {
  const [filter, setFilter] = useState("");
  const [hours, setHours] = useState(24);
  const { models } = store.status;
  const words = filter.trim().toLowerCase();
  const shown = models.filter((model) => model.name.toLowerCase().includes(words));
  const ill = models.filter((model) => model.health !== "ok").length;
  return html`<section aria-label="Models">
    <h2>Models</h2>
    <p class="tools">
      <label>Name <input name="name" type="search" value=${filter} onInput=${(event) => setFilter(event.target.value)} /></label>
      <label>Timeline of <select name="hours" value=${hours} onChange=${(event) => setHours(Number(event.target.value))}>
        ${SPANS.map((each) => html`<option value=${each}>${each < 48 ? `${each} h` : `${each / 24} days`}</option>`)}
      </select></label>
      <span class="quiet">${counted(models.length, "model")}${ill ? `, ${ill} degraded` : ""}</span>
    </p>
    ${shown.length ? html`<table class="models"><thead><tr><th scope="col">model</th><th scope="col">health</th>
      <th scope="col" class="number">newest</th><th scope="col" class="number">age</th><th scope="col" class="number minor">size</th>
      <th scope="col" class="number minor">free</th><th scope="col" class="number minor">open</th><th scope="col" class="number minor">failed</th>
      <th scope="col" class="wide">exports</th></tr></thead>
      <tbody>${shown.map((model) => html`<${ModelRow} key=${model.name} store=${store} model=${model} hours=${hours} />`)}</tbody></table>`
      : html`<p class="quiet">${models.length ? "No model has such a name." : "The configuration names no model."}</p>`}
  </section>`;
}

function ModelRow({ store, model, hours }) {
  const open = [...RUNNING, ...WAITING].reduce((sum, state) => sum + (model.jobs[state] || 0), 0);
  return html`<tr>
    <td><a href="#/models/${encodeURIComponent(model.name)}">${model.name}</a></td>
    <td><span class="health ${model.health}">${model.health}</span></td>
    <td class="number">${model.newest_version ?? "none"}</td>
    <td class="number" title=${clock(model.newest_at)}>${age(model.newest_at)}</td>
    <td class="number minor">${model.newest_bytes ? bytes(model.newest_bytes) : ""}</td>
    <td class="number minor">${model.disk_bytes ? bytes(model.disk_free_bytes) : ""}</td>
    <td class="number minor">${open || ""}</td>
    <td class="number minor">${model.jobs.failed || ""}</td>
    <td class="wide"><${Timeline} jobs=${store.sorted.endedOf.get(model.name) ?? []} since=${store.endedSince} hours=${hours} label=${model.name} /></td>
  </tr>
  ${(model.error || model.retention_error) && html`<tr class="reason"><td colspan="9">
    <${Problem} error=${model.error} /><${Problem} error=${model.retention_error} what="Old versions were not removed" /></td></tr>`}`;
}
