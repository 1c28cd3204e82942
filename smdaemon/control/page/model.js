// A model's page: its versions and why each stays, and its jobs.

import { html, useEffect, useState } from "./vendor/preact.js";
import { get, post } from "./api.js";
import { age, bytes, clock } from "./format.js";
import { Act, Facts, JobTable, Problem, Timeline } from "./parts.js";
import { ENDED } from "./store.js";

const PAGE = 50;

export function Model({ store, name }) {
  const model = store.status.models.find((each) => each.name === name);
  if (!model) return html`<p class="quiet">No model is called ${name}.</p>`;
  const jobs = store.jobsIn(ENDED, name);
  return html`<article>
    <h2>${name} <span class="health ${model.health}">${model.health}</span></h2>
    <${Problem} error=${model.error} /><${Problem} error=${model.retention_error} what="Old versions were not removed" />
    <${Facts} facts=${[
      ["watches", `${model.watch}${model.watch_method ? ` (${model.watch_method})` : ""}`],
      ["publishes to", model.publish],
      ["room", model.disk_bytes ? `${bytes(model.disk_free_bytes)} of ${bytes(model.disk_bytes)} free` : ""],
      ["newest", model.newest_version === undefined ? "" : `${model.newest_version}, ${age(model.newest_at)}`],
    ]} />
    <${Timeline} jobs=${jobs} hours=${168} label="7 days" />
    <${Versions} store=${store} model=${model} />
    <${Jobs} store=${store} name=${name} />
  </article>`;
}

function Versions({ store, model }) {
  const [versions, setVersions] = useState(null);
  const [refused, setRefused] = useState(null);
  const [read, setRead] = useState(0);
  useEffect(() => {
    let current = true;
    get(`/v1/models/${encodeURIComponent(model.name)}/versions`).then(
      (answer) => current && setVersions(answer.versions),
      (error) => current && setRefused(error),
    );
    return () => {
      current = false;
    };
  }, [model.name, model.newest_version, model.newest_at, read]);
  if (refused) return html`<${Problem} error=${refused} />`;
  if (!versions) return html`<p class="quiet">Loading the versions…</p>`;
  const path = `/v1/models/${encodeURIComponent(model.name)}`;
  const acts = { mayAct: store.status.may_act, done: () => setRead(read + 1) };
  return html`<table><caption>versions</caption>
    <thead><tr><th scope="col">version</th><th scope="col">published</th><th scope="col">state</th><th scope="col">stays because</th>
      <th scope="col">metrics</th><th scope="col"></th></tr></thead>
    <tbody>${versions.map((each) => html`<tr key=${each.version}>
      <td class="number">${each.version}${each.restores === undefined ? "" : html` <small>of ${each.restores}</small>`}</td>
      <td title=${clock(each.published_at)}>${age(each.published_at)}</td>
      <td>${each.state}${each.withdrawn_at ? html` <small>withdrawn ${age(each.withdrawn_at)}</small>` : ""}</td>
      <td>${each.kept_by.join(", ") || html`<em>goes with the next pass</em>`}</td>
      <td>${Object.entries(each.metrics).map(([name, value]) => `${name} ${value}`).join(", ")}</td>
      <td>${each.pinned
        ? html`<${Act} label="Unpin" title="Leave version ${each.version} to the rules" ...${acts} act=${() => post(`${path}/unpin`, { version: each.version })} />`
        : html`<${Act} label="Pin" title="Keep version ${each.version} whatever the rules say" ...${acts} act=${() => post(`${path}/pin`, { version: each.version })} />`}
        ${each.state === "present" && each.version !== model.newest_version && html`<${Act} label="Roll back" title="Publish version ${each.version} once more, as the newest"
          confirm="Publish version ${each.version} of ${model.name} once more, as its newest version?" ...${acts}
          act=${() => post(`${path}/rollback`, { to: each.version })} />`}</td>
    </tr>`)}</tbody></table>
    ${!versions.length && html`<p class="quiet">Nothing is published yet.</p>`}`;
}

function Jobs({ store, name }) {
  const [pages, setPages] = useState([]);
  const [before, setBefore] = useState(undefined);
  const [refused, setRefused] = useState(null);
  const more = async () => {
    try {
      const answer = await get("/v1/jobs", { model: name, limit: PAGE, before });
      setPages([...pages, ...answer.jobs]);
      setBefore(answer.next_before || 0);
    } catch (error) {
      setRefused(error);
    }
  };
  useEffect(() => {
    more();
  }, []);
  const first = pages[0]?.id ?? 0;
  const newer = [...store.jobs.values()].filter((job) => job.model === name && job.id > first).sort((one, other) => other.id - one.id);
  const jobs = [...newer, ...pages.map((job) => store.jobs.get(job.id) ?? job)];
  return html`<${JobTable} caption="jobs, newest first" jobs=${jobs} store=${store} />
    <${Problem} error=${refused} />
    ${before !== 0 && html`<p class="tools"><button type="button" onClick=${more}>Older jobs</button></p>`}`;
}
