// A model's page: its versions and why each stays, and its jobs.

import { html, useEffect, useState } from "./vendor/preact.js";
import { get, post } from "./api.js";
import { age, bytes, clock } from "./format.js";
import { Act, Facts, JobTable, Problem } from "./parts.js";
import { ENDED } from "./store.js";
import { Timeline } from "./timeline.js";

const ROWS = 50;
const READ = 1000;
const WEEK_HOURS = 168;

export function Model({ store, name }) {
  const model = store.status.models.find((each) => each.name === name);
  const past = usePast(store, name);
  if (!model) return html`<p class="quiet">No model is called ${name}.</p>`;
  const jobs = jobsOf(store, name, past.jobs);
  return html`<article>
    <h2>${name} <span class="health ${model.health}">${model.health}</span></h2>
    <${Problem} error=${model.error} /><${Problem} error=${model.retention_error} what="Old versions were not removed" />
    <${Facts} facts=${[
      ["watches", `${model.watch}${model.watch_method ? ` (${model.watch_method})` : ""}`],
      ["publishes to", model.publish],
      ["room", model.disk_bytes ? `${bytes(model.disk_free_bytes)} of ${bytes(model.disk_bytes)} free` : ""],
      ["newest", model.newest_version === undefined ? "" : `${model.newest_version}, ${age(model.newest_at)} ago`],
    ]} />
    <${Timeline} jobs=${endedOf(jobs)} since=${past.before ? Date.parse(past.jobs.at(-1).created_at) : 0} hours=${WEEK_HOURS} label=${name} />
    <p class="scale"><span>7 days ago</span><span>now</span></p>
    <${Versions} store=${store} model=${model} />
    <${Jobs} store=${store} jobs=${jobs} past=${past} />
  </article>`;
}

/** What the daemon still knows of a model's jobs: `jobs` as they were when they were read, newest first; `more` reads older ones. */
function usePast(store, name) {
  const [past, setPast] = useState({ jobs: [], before: undefined, refused: null });
  const read = async (jobs, before) => {
    try {
      const answer = await get("/v1/jobs", { model: name, limit: READ, before });
      setPast({ jobs: [...jobs, ...answer.jobs], before: answer.next_before, refused: null });
    } catch (error) {
      setPast({ jobs, before, refused: error });
    }
  };
  useEffect(() => {
    read([], undefined);
  }, [name, store.reads]);
  return { ...past, more: () => read(past.jobs, past.before) };
}

/** A model's jobs, newest first: the past, and what the stream has told since. */
function jobsOf(store, name, past) {
  const known = new Map(past.map((job) => [job.id, job]));
  for (const job of store.jobs.values()) {
    if (job.model === name && (known.has(job.id) || job.id > (past[0]?.id ?? 0))) known.set(job.id, job);
  }
  return [...known.values()].sort((one, other) => other.id - one.id);
}

function endedOf(jobs) {
  const ended = jobs.filter((job) => ENDED.includes(job.state));
  for (const job of ended) job.ended ??= Date.parse(job.updated_at);
  return ended.sort((one, other) => other.ended - one.ended);
}

function Versions({ store, model }) {
  const [versions, setVersions] = useState(null);
  const [refused, setRefused] = useState(null);
  const [changes, setChanges] = useState(0);
  const [shown, setShown] = useState(ROWS);
  const path = `/v1/models/${encodeURIComponent(model.name)}`;
  useEffect(() => {
    let current = true;
    get(`${path}/versions`).then(
      (answer) => {
        if (!current) return;
        setVersions(answer.versions);
        setRefused(null);
      },
      (error) => current && setRefused(error),
    );
    return () => {
      current = false;
    };
  }, [path, model.newest_version, model.newest_at, store.reads, changes]);
  if (refused) return html`<${Problem} error=${refused} />`;
  if (!versions) return html`<p class="quiet">Loading the versions…</p>`;
  if (!versions.length) return html`<h3>Versions</h3><p class="quiet">Nothing is published yet.</p>`;
  const changed = () => setChanges(changes + 1);
  return html`<h3>Versions</h3>
    <table class="versions"><thead><tr><th scope="col" class="number">version</th><th scope="col" class="number">age</th><th scope="col">state</th>
      <th scope="col">stays because</th><th scope="col" class="minor">metrics</th><th scope="col"><span class="unseen">actions</span></th></tr></thead>
    <tbody>${versions.slice(0, shown).map((each) => html`<${VersionRow} key=${each.version} version=${each} newest=${model.newest_version}
      name=${model.name} path=${path} store=${store} changed=${changed} />`)}</tbody></table>
    ${versions.length > shown && html`<p class="tools"><button type="button" onClick=${() => setShown(shown + ROWS)}>Older versions</button>
      <span class="quiet">${shown} of ${versions.length.toLocaleString()}</span></p>`}`;
}

function VersionRow({ version, newest, name, path, store, changed }) {
  const number = version.version;
  const act = (kind, body) => () => post(`${path}/${kind}`, body);
  const pin = version.pinned
    ? html`<${Act} label="Unpin" title="Leave version ${number} to the rules" store=${store} done=${changed} act=${act("unpin", { version: number })} />`
    : html`<${Act} label="Pin" title="Keep version ${number} whatever the rules say" store=${store} done=${changed} act=${act("pin", { version: number })} />`;
  return html`<tr>
    <td class="number">${number}${version.restores === undefined ? "" : html` <small>of ${version.restores}</small>`}</td>
    <td class="number" title=${clock(version.published_at)}>${age(version.published_at)}</td>
    <td>${version.state}${version.withdrawn_at ? html` <small>withdrawn ${age(version.withdrawn_at)} ago</small>` : ""}</td>
    <td>${version.kept_by.join(", ") || html`<em>goes with the next pass</em>`}</td>
    <td class="minor">${Object.entries(version.metrics).map(([metric, value]) => `${metric} ${value}`).join(", ")}</td>
    <td class="acts">${pin} ${version.state === "present" && number !== newest && html`<${Act} label="Roll back" store=${store}
      title="Publish version ${number} once more, as the newest" done=${(job) => store.keep(job)} act=${act("rollback", { to: number })}
      confirm=${{ question: `Publish version ${number} of ${name} once more, as its newest version?`, yes: `Roll back to ${number}` }} />`}</td>
  </tr>`;
}

function Jobs({ store, jobs, past }) {
  const [shown, setShown] = useState(ROWS);
  const older = jobs.length > shown || past.before > 0;
  const showOlder = () => {
    if (shown + ROWS > jobs.length && past.before > 0) past.more();
    setShown(shown + ROWS);
  };
  return html`<h3>Jobs</h3>
    <${Problem} error=${past.refused} />
    <${JobTable} store=${store} groups=${[{ title: "", jobs: jobs.slice(0, shown) }]} none=${past.before === undefined ? "Loading…" : "There are none."} />
    ${older && html`<p class="tools"><button type="button" onClick=${showOlder}>Older jobs</button></p>`}`;
}
