// A job's page: what it is, how it went, what the log says, and what to do.

import { html, useEffect, useState } from "./vendor/preact.js";
import { get } from "./api.js";
import { age, bytes, clock, duration, rate, timeLeft, timeOfDay } from "./format.js";
import { Facts, JobActs, Problem, Progress, State } from "./parts.js";
import { ENDED } from "./store.js";

const HIDDEN = new Set(["room", "model"]);

export function Job({ store, id }) {
  const [full, setFull] = useState(null);
  const [missing, setMissing] = useState(null);
  const known = store.jobs.get(id);
  useEffect(() => {
    let current = true;
    get(`/v1/jobs/${id}`).then(
      (job) => {
        if (!current) return;
        setFull(job);
        setMissing(null);
      },
      (error) => current && setMissing(error),
    );
    return () => {
      current = false;
    };
  }, [id, known?.state, known?.attempts, store.reads]);
  if (!full) return missing ? html`<${Problem} error=${missing} />` : html`<p class="quiet">Loading…</p>`;
  const job = known ? { ...known, history: full.history, log: full.log, validator_output: full.validator_output } : full;
  return html`<article>
    <h2>Job ${job.id} <${State} state=${job.state} /></h2>
    <${Problem} error=${job.error} />
    <p class="tools"><${JobActs} job=${job} store=${store} /><${Progress} job=${job} />
      <span>${rate(job.bytes_per_second)}</span><span>${timeLeft(job) && `${timeLeft(job)} left`}</span></p>
    <div class="sides">
      <section aria-label="Facts"><h3>What it is</h3><${Facts} facts=${facts(job)} /></section>
      <section aria-label="States"><h3>How it went</h3><${History} job=${job} /></section>
    </div>
    ${job.validator_output && html`<h3>What the validator said</h3><pre>${job.validator_output}</pre>`}
    <h3>Log</h3><${Log} lines=${job.log} />
  </article>`;
}

function facts(job) {
  const took = (Date.parse(job.updated_at) - Date.parse(job.created_at)) / 1000;
  return [
    ["model", html`<a href="#/models/${encodeURIComponent(job.model)}">${job.model}</a>`],
    ["version", job.version],
    ["of a rollback to", job.restores],
    ["published to", job.export_dir],
    ["source", job.source],
    ["format", job.format],
    ["came by", job.origin],
    ["tensors", job.tensors ? job.tensors.toLocaleString() : ""],
    ["size", job.bytes_total ? bytes(job.bytes_total) : ""],
    ["attempts", job.attempts],
    ["accepted", `${clock(job.created_at)}, ${age(job.created_at)} ago`],
    ["took", ENDED.includes(job.state) ? duration(took) : ""],
    ["next attempt", clock(job.retry_at)],
    ["reason", job.error ? "" : job.reason],
  ];
}

function History({ job }) {
  const begun = Date.parse(job.created_at);
  return html`<ol class="history">${job.history.map((move) => html`<li key=${move.seq}>
    <time datetime=${move.at} title=${clock(move.at)}>+${duration((Date.parse(move.at) - begun) / 1000)}</time>
    <span><${State} state=${move.state} /> ${job.error?.message === move.reason ? "" : move.reason}</span></li>`)}</ol>`;
}

function Log({ lines }) {
  if (!lines.length) return html`<p class="quiet">This daemon has no line of it any more; the journal of the service may.</p>`;
  return html`<ol class="log">${lines.map((line) => html`<li class=${line.level}>
    <time datetime=${line.at} title=${clock(line.at)}>${timeOfDay(line.at)}</time>${" "}<b>${line.event}</b>
    ${Object.entries(line.fields).filter(([name]) => !HIDDEN.has(name)).map(([name, value]) => html`${" "}<span><i>${name}=</i>${value}</span>`)}</li>`)}</ol>`;
}
