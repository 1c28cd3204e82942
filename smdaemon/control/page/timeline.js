// The exports of a model along time.

import { html } from "./vendor/preact.js";
import { clock, counted } from "./format.js";

const PLACES = 120;
const WORST = ["failed", "published", "cancelled", "superseded"];

/**
 * A mark for each short stretch of the last hours in which exports ended, coloured by the worst of them.
 *
 * `jobs` have ended, the last ones first; those before `since` are not known, and the line there is broken.
 */
export function Timeline({ jobs, since, hours, label }) {
  const now = Date.now();
  const begin = now - hours * 3600e3;
  const at = (time) => ((time - begin) / (now - begin)) * PLACES;
  const marks = marksOf(jobs, begin, at);
  const known = Math.min(PLACES, Math.max(0, since ? at(since) : 0));
  const told = marks.reduce((sum, mark) => sum + mark.jobs.length, 0);
  return html`<svg class="timeline" viewBox="0 0 ${PLACES} 24" preserveAspectRatio="none" role="img" aria-label="${label}: ${counted(told, "export")} in ${hours} h">
    ${known > 0 && html`<line class="unknown" x1="0" x2=${known} y1="12" y2="12"><title>older jobs are on the model's page</title></line>`}
    <line x1=${known} x2=${PLACES} y1="12" y2="12" />
    ${marks.map((mark) => html`<a href="#/jobs/${mark.jobs[0].id}" key=${mark.place} tabindex="-1">
      <rect class=${mark.state} x=${mark.place + 0.1} y="3" width="0.8" height="18"><title>${mark.title}</title></rect></a>`)}
  </svg>`;
}

function marksOf(jobs, begin, at) {
  const marks = new Map();
  for (const job of jobs) {
    if (job.ended < begin) break;
    const place = Math.min(PLACES - 1, Math.floor(at(job.ended)));
    if (!marks.has(place)) marks.set(place, { place, jobs: [] });
    marks.get(place).jobs.push(job);
  }
  return [...marks.values()].map((mark) => ({ ...mark, ...inWords(mark.jobs) }));
}

function inWords(jobs) {
  const state = WORST.find((each) => jobs.some((job) => job.state === each));
  const [newest] = jobs;
  const version = newest.version === undefined ? "" : `, version ${newest.version}`;
  const more = jobs.length > 1 ? `, the last of ${jobs.length} here` : "";
  return { state, title: `job ${newest.id}${version}: ${newest.state}${more}, ${clock(newest.updated_at)}` };
}
