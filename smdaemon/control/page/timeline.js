// The exports of a model along time.

import { html } from "./vendor/preact.js";
import { clock, counted } from "./format.js";

const PLACES = 120;
const TOP = 3;
const HEIGHT = 18;
const STATES = ["failed", "published", "cancelled", "superseded"];

/**
 * A mark for each short stretch of the last hours in which exports ended, in the colours of how they did.
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
      ${mark.parts.map((part) => html`<rect class=${part.state} x=${mark.place + 0.1} y=${part.top} width="0.8" height=${part.height} />`)}
      <title>${mark.title}</title></a>`)}
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
  return [...marks.values()].map((mark) => ({ ...mark, parts: partsOf(mark.jobs), title: inWords(mark.jobs) }));
}

/** One part for each state, as high as its share of the jobs; those that failed lie at the top. */
function partsOf(jobs) {
  let top = TOP;
  return STATES.map((state) => {
    const height = (HEIGHT * jobs.filter((job) => job.state === state).length) / jobs.length;
    const part = { state, top, height };
    top += height;
    return part;
  }).filter((part) => part.height > 0);
}

function inWords(jobs) {
  const [newest] = jobs;
  const version = newest.version === undefined ? "" : `, version ${newest.version}`;
  const counts = STATES.map((state) => [jobs.filter((job) => job.state === state).length, state]).filter(([count]) => count);
  const all = jobs.length > 1 ? `${counts.map((pair) => pair.join(" ")).join(", ")}; the last: ` : "";
  return `${all}job ${newest.id}${version}: ${newest.state}, ${clock(newest.updated_at)}`;
}
