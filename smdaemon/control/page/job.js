// A job's page: what it is, how it went, what the log says, and what to do.

import { html, useEffect, useState } from "./vendor/preact.js";
import { get } from "./api.js";
import { bytes, clock, duration, rate, timeLeft } from "./format.js";
import { Facts, JobActs, Problem, Progress, State, took } from "./parts.js";
import { ENDED } from "./store.js";

export function Job({ store, id }) {
  const [full, setFull] = useState(null);
  const [missing, setMissing] = useState(null);
  const known = store.jobs.get(id);
  useEffect(() => {
    let current = true;
    get(`/v1/jobs/${id}`).then(
      (job) => current && setFull(job),
      (error) => current && setMissing(error),
    );
    return () => {
      current = false;
    };
  }, [id, known?.state, known?.attempts]);
  if (missing) return html`<${Problem} error=${missing} />`;
  if (!full) return html`<p class="quiet">Loading…</p>`;
  const job = { ...full, ...known };
  const begun = Date.parse(job.created_at);
  return html`<article>
    <h2>Job ${job.id} <${State} state=${job.state} /></h2>
    <${Problem} error=${job.error} />
    <p class="tools"><${JobActs} job=${job} store=${store} /> <${Progress} job=${job} /> ${rate(job.bytes_per_second)} ${timeLeft(job) && `${timeLeft(job)} left`}</p>
    <${Facts} facts=${[
      ["model", html`<a href="#/models/${encodeURIComponent(job.model)}">${job.model}</a>`],
      ["version", job.version],
      ["of a rollback to", job.restores],
      ["published to", job.export_dir],
      ["source", job.source],
      ["format", job.format],
      ["came by", job.origin],
      ["tensors", job.tensors || ""],
      ["size", job.bytes_total ? bytes(job.bytes_total) : ""],
      ["attempts", job.attempts],
      ["accepted", clock(job.created_at)],
      ["took", ENDED.includes(job.state) ? took(job) : ""],
      ["next attempt", clock(job.retry_at)],
      ["reason", job.reason],
    ]} />
    <h3>States</h3>
    <ol class="history">${full.history.map((move) => html`<li key=${move.seq}><time datetime=${move.at} title=${clock(move.at)}>+${duration((Date.parse(move.at) - begun) / 1000)}</time>
      <${State} state=${move.state} /> ${move.reason}</li>`)}</ol>
    ${full.validator_output && html`<h3>What the validator said</h3><pre>${full.validator_output}</pre>`}
    <h3>Log</h3>
    ${full.log.length ? html`<ol class="log">${full.log.map((line) => html`<li class=${line.level}><time datetime=${line.at}>${clock(line.at)}</time>
      <b>${line.event}</b> ${Object.entries(line.fields).map(([name, value]) => html`<span><i>${name}</i> ${value} </span>`)}</li>`)}</ol>`
      : html`<p class="quiet">This daemon has no line of it any more; the journal of the service may.</p>`}
  </article>`;
}
