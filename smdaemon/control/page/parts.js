// Small things that several pages show.

import { html, useState } from "./vendor/preact.js";
import { post } from "./api.js";
import { age, basename, bytes, clock, rate, share, timeLeft } from "./format.js";

const CANCELLABLE = new Set(["detected", "queued", "waiting", "staging", "writing", "verifying"]);
const RETRYABLE = new Set(["failed", "cancelled"]);

/** A state as a coloured word. */
export function State({ state }) {
  return html`<span class="state ${state}">${state}</span>`;
}

/** A bar of how much of a whole there is; with `scarce` it warns where little is left. */
export function Meter({ label, part, whole, text, scarce }) {
  const filled = share(part, whole);
  const level = scarce && filled > 0.9 ? "high" : "";
  return html`<div class="meter" role="meter" aria-label=${label} aria-valuemin="0" aria-valuemax="100"
    aria-valuenow=${Math.round(filled * 100)} aria-valuetext=${text}>
    <span>${label}</span><span class="number">${text}</span>
    <i><b class=${level} style=${{ width: `${filled * 100}%` }}></b></i>
  </div>`;
}

/** How far a job that is written has come; nothing for others. */
export function Progress({ job }) {
  if (job.state !== "writing" || !job.bytes_total) return null;
  const percent = Math.floor(100 * share(job.bytes_done, job.bytes_total));
  return html`<span class="progress" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow=${percent}
    aria-label="job ${job.id}"><i><b style=${{ width: `${percent}%` }}></b></i> ${percent} %</span>`;
}

/** What is wrong, and what to do about it. */
export function Problem({ error, what }) {
  if (!error) return null;
  return html`<p class="problem"><strong>${what ? `${what}: ` : ""}${error.message}</strong>
    ${error.code && html` <code>${error.code}</code>`}<br />${error.remedy}${error.retryable ? " (tried again by itself)" : ""}</p>`;
}

/** A button that asks the daemon for something; it says what came of it. With `confirm`, a question and the word for yes, it asks first. */
export function Act({ label, title, store, confirm, act, done }) {
  const [busy, setBusy] = useState(false);
  const [refused, setRefused] = useState(null);
  const run = async () => {
    if (confirm && !(await asked(confirm))) return;
    setBusy(true);
    setRefused(null);
    try {
      done(await act());
    } catch (error) {
      setRefused(error);
    }
    setBusy(false);
  };
  return html`<span class="act">
    <button type="button" disabled=${busy || !store.mayAct} onClick=${run} title=${store.mayAct ? title : whyNot(store)}>${label}</button>
    ${refused && html`<span class="refused" role="alert">${refused.message}${refused.remedy ? `; ${refused.remedy}` : ""}</span>`}
  </span>`;
}

function whyNot(store) {
  if (store.link.state !== "live") return "There is no connection to the daemon";
  return "You may read here, not act: give the token at the top of the page, or ask the daemon's owner";
}

/** Whether the person says yes, in a dialog of the page. */
function asked({ question, yes }) {
  const dialog = document.createElement("dialog");
  const words = document.createElement("p");
  words.textContent = question;
  const form = document.createElement("form");
  form.method = "dialog";
  for (const [value, label] of [["yes", yes], ["", "Leave it"]]) {
    const button = document.createElement("button");
    button.value = value;
    button.textContent = label;
    button.autofocus = !value; // a key that is held down says nothing yet
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
  const done = (answer) => store.keep(answer);
  if (CANCELLABLE.has(job.state)) {
    return html`<${Act} label="Cancel" title="Cancel job ${job.id}; its drop stays as it is" store=${store} done=${done}
      confirm=${{ question: `Cancel job ${job.id} of ${job.model}? Its drop stays as it is.`, yes: `Cancel job ${job.id}` }}
      act=${() => post(`/v1/jobs/${job.id}/cancel`)} />`;
  }
  if (RETRYABLE.has(job.state)) {
    return html`<${Act} label="Retry" title="Run job ${job.id} again" store=${store} done=${done} act=${() => post(`/v1/jobs/${job.id}/retry`)} />`;
  }
  return null;
}

/** Jobs, one a row, in groups of `title`, `jobs` and how many `more` there are; `none` is said where all of them are empty. */
export function JobTable({ groups, store, none }) {
  const shown = groups.filter((group) => group.jobs.length);
  if (!shown.length) return html`<p class="quiet">${none}</p>`;
  return html`<table class="jobs">
    <thead><tr><th scope="col" class="number">job</th><th scope="col">model</th><th scope="col" class="number minor">version</th>
      <th scope="col" class="wide">state</th><th scope="col" class="number minor">size</th><th scope="col" class="number minor">speed</th>
      <th scope="col" class="number minor">left</th><th scope="col" class="minor">source</th><th scope="col" class="number">age</th>
      <th scope="col"><span class="unseen">actions</span></th></tr></thead>
    ${shown.map((group) => html`<tbody key=${group.title} class=${group.title.split(",")[0].replace(" ", "-")}>
      ${group.title && html`<tr class="group"><th colspan="10" scope="rowgroup">${group.title}</th></tr>`}
      ${group.jobs.map((job) => html`<${JobRow} key=${job.id} job=${job} store=${store} />`)}
      ${group.more > 0 && html`<tr class="group"><td colspan="10">and ${group.more.toLocaleString()} more</td></tr>`}
    </tbody>`)}
  </table>`;
}

function JobRow({ job, store }) {
  const why = job.error ? html` <code title="${job.error.message}; ${job.error.remedy}">${job.error.code}</code>` : job.reason && html` <small>${job.reason}</small>`;
  return html`<tr>
    <td class="number"><a href="#/jobs/${job.id}">${job.id}</a></td>
    <td><a href="#/models/${encodeURIComponent(job.model)}">${job.model}</a></td>
    <td class="number minor">${job.version ?? ""}</td>
    <td class="wide"><${State} state=${job.state} /> <${Progress} job=${job} />${why}</td>
    <td class="number minor">${job.bytes_total ? bytes(job.bytes_total) : ""}</td>
    <td class="number minor">${rate(job.bytes_per_second)}</td>
    <td class="number minor">${timeLeft(job)}</td>
    <td class="path minor" title=${job.source}>${basename(job.source)}</td>
    <td class="number" title=${clock(job.updated_at)}>${age(job.updated_at)}</td>
    <td class="acts"><${JobActs} job=${job} store=${store} /></td>
  </tr>`;
}

/** Facts, one a row; those without a value are left out. */
export function Facts({ facts }) {
  const shown = facts.filter(([, value]) => value !== undefined && value !== "" && value !== null);
  return html`<dl>${shown.map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl>`;
}
