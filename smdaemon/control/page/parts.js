// Small things that several pages show.

import { html, useState } from "./vendor/preact.js";
import { post } from "./api.js";
import { age, basename, bytes, clock, duration, rate, share, timeLeft } from "./format.js";

const CANCELLABLE = new Set(["detected", "queued", "waiting", "staging", "writing", "verifying"]);
const RETRYABLE = new Set(["failed", "cancelled"]);

/** A state as a coloured word. */
export function State({ state }) {
  return html`<span class="state ${state}">${state}</span>`;
}

/** A bar of how much of a whole there is. */
export function Meter({ label, part, whole, text }) {
  const filled = share(part, whole);
  const level = filled > 0.9 ? "high" : "";
  return html`<div class="meter" role="meter" aria-label=${label} aria-valuemin="0" aria-valuemax="100"
    aria-valuenow=${Math.round(filled * 100)} aria-valuetext=${text}>
    <span>${label}</span><span class="number">${text}</span>
    <i><b class=${level} style=${{ width: `${filled * 100}%` }}></b></i>
  </div>`;
}

/** How far a job has come: a bar while it writes, else its state alone. */
export function Progress({ job }) {
  const filled = share(job.bytes_done, job.bytes_total);
  if (job.state !== "writing" || !job.bytes_total) return null;
  const percent = Math.round(filled * 100);
  return html`<span class="progress" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow=${percent}
    aria-label="job ${job.id}"><i><b style=${{ width: `${filled * 100}%` }}></b></i></span>`;
}

/** What is wrong, and what to do about it. */
export function Problem({ error, what }) {
  if (!error) return null;
  return html`<p class="problem"><strong>${what ? `${what}: ` : ""}${error.message}</strong>
    ${error.code && html` <code>${error.code}</code>`}<br />${error.remedy}${error.retryable ? " (tried again by itself)" : ""}</p>`;
}

/** A button that asks the daemon for something; it says what came of it. With `confirm` it asks first. */
export function Act({ label, title, mayAct, confirm, act, done }) {
  const [busy, setBusy] = useState(false);
  const [refused, setRefused] = useState(null);
  const run = async () => {
    if (confirm && !(await asked(confirm))) return;
    setBusy(true);
    setRefused(null);
    try {
      done?.(await act());
    } catch (error) {
      setRefused(error);
    }
    setBusy(false);
  };
  return html`<span class="act">
    <button type="button" disabled=${busy || !mayAct} onClick=${run}
      title=${mayAct ? title : "You may read here, not act: give the token, or ask the daemon's owner"}>${label}</button>
    ${refused && html`<span class="refused" role="alert">${refused.message}${refused.remedy ? `; ${refused.remedy}` : ""}</span>`}
  </span>`;
}

/** Whether the person says yes, in a dialog of the page. */
function asked(question) {
  const dialog = document.createElement("dialog");
  const words = document.createElement("p");
  words.textContent = question;
  const form = document.createElement("form");
  form.method = "dialog";
  for (const [value, label] of [["yes", "Yes"], ["", "No"]]) {
    const button = document.createElement("button");
    button.value = value;
    button.textContent = label;
    form.append(button);
  }
  dialog.append(words, form);
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue === "yes");
      dialog.remove();
    });
  });
}

/** The buttons of a job. */
export function JobActs({ job, store }) {
  const mayAct = store.status.may_act;
  const done = (answer) => store.keep(answer);
  if (CANCELLABLE.has(job.state)) {
    return html`<${Act} label="Cancel" title="Cancel job ${job.id}; its drop stays as it is" mayAct=${mayAct} done=${done}
      confirm="Cancel job ${job.id} of ${job.model}? Its drop stays as it is."
      act=${() => post(`/v1/jobs/${job.id}/cancel`)} />`;
  }
  if (RETRYABLE.has(job.state)) {
    return html`<${Act} label="Retry" title="Run job ${job.id} again" mayAct=${mayAct} done=${done}
      act=${() => post(`/v1/jobs/${job.id}/retry`)} />`;
  }
  return null;
}

/** Jobs, one a row. */
export function JobTable({ jobs, store, caption, more }) {
  if (!jobs.length) return null;
  return html`<table class="jobs"><caption>${caption}</caption>
    <thead><tr><th scope="col">job</th><th scope="col">model</th><th scope="col">version</th><th scope="col">state</th>
      <th scope="col">size</th><th scope="col">speed</th><th scope="col">left</th><th scope="col">source</th>
      <th scope="col">since</th><th scope="col"></th></tr></thead>
    <tbody>${jobs.map((job) => html`<${JobRow} key=${job.id} job=${job} store=${store} />`)}</tbody>
    ${more > 0 && html`<tfoot><tr><td colspan="10">and ${more.toLocaleString()} more</td></tr></tfoot>`}
  </table>`;
}

function JobRow({ job, store }) {
  return html`<tr>
    <td><a href="#/jobs/${job.id}">${job.id}</a></td>
    <td><a href="#/models/${encodeURIComponent(job.model)}">${job.model}</a></td>
    <td class="number">${job.version ?? ""}</td>
    <td><${State} state=${job.state} /> <${Progress} job=${job} />
      ${job.error ? html` <code title="${job.error.message}; ${job.error.remedy}">${job.error.code}</code>` : job.reason && html` <small>${job.reason}</small>`}</td>
    <td class="number">${job.bytes_total ? bytes(job.bytes_total) : ""}</td>
    <td class="number">${rate(job.bytes_per_second)}</td>
    <td class="number">${timeLeft(job)}</td>
    <td class="path" title=${job.source}>${basename(job.source)}</td>
    <td title=${clock(job.updated_at)}>${age(job.updated_at)}</td>
    <td><${JobActs} job=${job} store=${store} /></td>
  </tr>`;
}

/** The exports of a model along time: a mark each, coloured by how it ended. */
export function Timeline({ jobs, hours, label }) {
  const now = Date.now();
  const span = hours * 3600e3;
  const marks = jobs
    .map((job) => ({ job, at: 1 - (now - Date.parse(job.updated_at)) / span }))
    .filter(({ at }) => at >= 0)
    .slice(0, 300);
  return html`<svg class="timeline" viewBox="0 0 1000 24" preserveAspectRatio="none" role="img"
    aria-label="${label}: ${marks.length} exports in ${hours} h">
    <line x1="0" x2="1000" y1="12" y2="12" />
    ${marks.map(({ job, at }) => html`<a href="#/jobs/${job.id}" key=${job.id} tabindex="-1"><rect class=${job.state} x=${at * 994} y="3" width="6" height="18" rx="2">
      <title>job ${job.id}${job.version === undefined ? "" : `, version ${job.version}`}: ${job.state}, ${clock(job.updated_at)}</title></rect></a>`)}
  </svg>`;
}

/** Facts, one a row; those without a value are left out. */
export function Facts({ facts }) {
  const shown = facts.filter(([, value]) => value !== undefined && value !== "" && value !== null);
  return html`<dl>${shown.map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl>`;
}

/** How long it took from acceptance to the end. */
export function took(job) {
  return duration((Date.parse(job.updated_at) - Date.parse(job.created_at)) / 1000);
}


