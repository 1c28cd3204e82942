// The first page: the daemon, its models, what runs and what waits.

import { html, useState } from "./vendor/preact.js";
import { age, bytes, clock } from "./format.js";
import { JobTable, Meter, Problem, State, Timeline } from "./parts.js";
import { Plots } from "./plots.js";
import { ENDED, RUNNING, WAITING } from "./store.js";

const ROWS = 100;
const RECENT = 20;

export function Overview({ store }) {
  const { status } = store;
  const running = store.jobsIn(RUNNING);
  const waiting = store.jobsIn(WAITING).reverse();
  const counted = (states) => states.reduce((sum, state) => sum + (status.jobs[state] || 0), 0);
  return html`
    <${Problem} error=${status.config_error} what="The last reload was refused, the configuration before it is in force" />
    <section class="meters" aria-label="The daemon">
      <${Meter} label="Workers" part=${status.workers_busy} whole=${status.workers} text="${status.workers_busy} of ${status.workers} busy" />
      <${Meter} label="Host memory" part=${status.host_memory_used_bytes} whole=${status.host_memory_bytes}
        text="${bytes(status.host_memory_used_bytes)} of ${bytes(status.host_memory_bytes)}" />
      ${status.handoff && html`<${Meter} label="Handoff memory" part=${status.handoff.memory_used_bytes} whole=${status.handoff.memory_bytes}
        text="${bytes(status.handoff.memory_used_bytes)} of ${bytes(status.handoff.memory_bytes)}, ${status.handoff.trainers} trainers" />`}
      <p class="counts">${[...RUNNING, ...WAITING, ...ENDED].filter((state) => status.jobs[state])
        .map((state) => html`<span><${State} state=${state} /> ${status.jobs[state].toLocaleString()}</span>`)}</p>
    </section>
    <${Plots} store=${store} />
    <${Models} store=${store} />
    <section aria-label="Queue"><h2>Queue</h2>
      <${JobTable} caption="running" jobs=${running} store=${store} />
      <${JobTable} caption="waiting, the next ones first" jobs=${waiting.slice(0, ROWS)} store=${store}
        more=${counted(WAITING) - Math.min(waiting.length, ROWS)} />
      ${!running.length && !waiting.length && html`<p class="quiet">Nothing runs and nothing waits.</p>`}
      <${JobTable} caption="ended last" jobs=${store.jobsIn(ENDED).slice(0, RECENT)} store=${store} />
    </section>`;
}

function Models({ store }) {
  const [filter, setFilter] = useState("");
  const [hours, setHours] = useState(24);
  const words = filter.toLowerCase();
  const shown = store.status.models.filter((model) => model.name.toLowerCase().includes(words));
  const ended = store.jobsIn(ENDED);
  return html`<section aria-label="Models">
    <h2>Models</h2>
    <p class="tools">
      <label>Name <input type="search" value=${filter} onInput=${(event) => setFilter(event.target.value)} /></label>
      <label>Timeline of <select value=${hours} onChange=${(event) => setHours(Number(event.target.value))}>
        ${[1, 6, 24, 168].map((each) => html`<option value=${each}>${each < 48 ? `${each} h` : `${each / 24} days`}</option>`)}
      </select></label>
    </p>
    <table class="models"><thead><tr><th scope="col">model</th><th scope="col">health</th><th scope="col">newest</th>
      <th scope="col">age</th><th scope="col">size</th><th scope="col">free</th><th scope="col">open</th><th scope="col">failed</th>
      <th scope="col">exports</th></tr></thead>
      <tbody>${shown.map((model) => html`<${ModelRow} key=${model.name} model=${model} hours=${hours}
        jobs=${ended.filter((job) => job.model === model.name)} />`)}</tbody></table>
    ${!shown.length && html`<p class="quiet">No model has such a name.</p>`}
  </section>`;
}

function ModelRow({ model, jobs, hours }) {
  const open = [...RUNNING, ...WAITING].reduce((sum, state) => sum + (model.jobs[state] || 0), 0);
  return html`<tr>
    <td><a href="#/models/${encodeURIComponent(model.name)}">${model.name}</a></td>
    <td><span class="health ${model.health}">${model.health}</span></td>
    <td class="number">${model.newest_version ?? "none"}</td>
    <td title=${clock(model.newest_at)}>${age(model.newest_at)}</td>
    <td class="number">${model.newest_bytes ? bytes(model.newest_bytes) : ""}</td>
    <td class="number">${model.disk_bytes ? bytes(model.disk_free_bytes) : ""}</td>
    <td class="number">${open || ""}</td>
    <td class="number">${model.jobs.failed || ""}</td>
    <td class="wide"><${Timeline} jobs=${jobs} hours=${hours} label=${model.name} /></td>
  </tr>
  ${(model.error || model.retention_error) && html`<tr class="reason"><td colspan="9">
    <${Problem} error=${model.error} /><${Problem} error=${model.retention_error} what="Old versions were not removed" /></td></tr>`}`;
}
