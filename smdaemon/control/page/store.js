// What the page knows of the daemon, and how it stays true: one stream of events, and what is read whenever that begins.

import { ApiError, events, get } from "./api.js";

export const RUNNING = ["staging", "writing", "verifying", "committing"];
export const WAITING = ["detected", "queued", "waiting"];
export const ENDED = ["published", "failed", "superseded", "cancelled"];
/** Rows of the queue that are shown, at most. */
export const QUEUE_SHOWN = 100;

const QUEUE_READ = 400;
const ENDED_READ = { published: 1000, failed: 500, cancelled: 100, superseded: 100 };
const ENDED_KEPT = 2000;
const JOBS_KEPT = 5000;
const SAMPLES_KEPT = 720;
const RETRY_MS = [500, 1000, 2000, 5000, 10000];

/** State of the page; `changed` is called, at most once a frame, when anything in it is another. */
export class Store {
  constructor(changed) {
    this.status = null;
    this.samples = [];
    this.jobs = new Map();
    this.endedSince = 0; // ended jobs from then on are known, in milliseconds; 0: all of them
    this.reads = 0; // how often everything was read anew
    this.link = { state: "connecting", error: null, since: Date.now() };
    this._changed = changed;
    this._sorted = null;
    this._waiting = false;
    this._restart = null;
    this._asked = false;
    this._failures = 0;
    this._filling = false;
  }

  /** Follow the daemon for ever. */
  async run() {
    for (;;) {
      const stop = new AbortController();
      this._restart = () => stop.abort();
      this._asked = false;
      try {
        await this._follow(stop);
        this._failed(null);
      } catch (error) {
        if (!this._asked) this._failed(error);
      }
      if (!this._asked) await this._pause();
    }
  }

  /** Connect anew, now: after a token was given, say. */
  reconnect() {
    this._asked = true;
    this._failures = 0;
    this.link = { state: "connecting", error: null, since: Date.now() };
    this.tell();
    this._restart?.();
  }

  async _pause() {
    const pause = RETRY_MS[Math.min(this._failures, RETRY_MS.length - 1)];
    this._failures += 1;
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, pause);
      this._restart = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** Whether buttons would be heard. */
  get mayAct() {
    return this.link.state === "live" && Boolean(this.status?.may_act);
  }

  /** All jobs that are known: `running` and `waiting`, the next ones first; `ended` and, by model, `endedOf`, the last ones first. */
  get sorted() {
    this._sorted ??= sorted(this.jobs.values());
    return this._sorted;
  }

  /** Take a job as it was read, unless what is known of it is newer. */
  keep(job) {
    const known = this.jobs.get(job.id);
    if (known && Date.parse(known.updated_at) > Date.parse(job.updated_at)) return;
    this._moved(job);
  }

  /** Take a job as it has just moved: moves come in order, whatever the daemon's clock says. */
  _moved(job) {
    this.jobs.set(job.id, job);
    this.tell();
  }

  /** Have the page drawn. */
  tell() {
    this._sorted = null;
    if (this._waiting) return;
    this._waiting = true;
    requestAnimationFrame(() => {
      this._waiting = false;
      this._changed();
    });
  }

  async _follow(stop) {
    // The stream first: what happens while the rest is read comes by it.
    let refused = null;
    const opened = () =>
      this._read().catch((error) => {
        refused = error;
        stop.abort();
      });
    try {
      for await (const event of events("/v1/events?status=true", stop.signal, opened)) {
        if (event.type === "status") this._status(event.data);
        else if (event.type === "job") this._moved(event.data.job);
        else if (event.data.job) this.keep(event.data.job);
      }
    } catch (error) {
      throw refused ?? error;
    }
  }

  async _read() {
    const status = await get("/v1/status");
    // a daemon of another version may bring another page
    if (this.status && this.status.version !== status.version) location.reload();
    this.jobs.clear();
    const there = ENDED.filter((state) => status.jobs[state]);
    const [history, queue, ...ended] = await Promise.all([
      get("/v1/history"),
      get("/v1/queue", { limit: QUEUE_READ }),
      ...there.map((state) => get("/v1/jobs", { state, limit: ENDED_READ[state] })),
    ]);
    this.samples = history.samples;
    this.status = status;
    const cut = ended.filter((page) => page.next_before).map((page) => Date.parse(page.jobs.at(-1).updated_at));
    this.endedSince = Math.max(0, ...cut);
    for (const page of [queue, ...ended]) page.jobs.forEach((job) => this.keep(job));
    this.reads += 1;
    this._failures = 0;
    this.link = { state: "live", error: null, since: Date.now() };
    this.tell();
  }

  _status({ status, sample }) {
    if (!this.status) return; // still being read, and with it whether this page may act
    this.status = { ...status, may_act: this.status.may_act };
    if (sample && this.samples.at(-1)?.at !== sample.at) {
      this.samples = [...this.samples.slice(1 - SAMPLES_KEPT), sample];
    }
    this._fill();
    this._forget();
    this.tell();
  }

  /** Read more of a long queue when the part of it that is known has been worked off. */
  async _fill() {
    const there = WAITING.reduce((sum, state) => sum + (this.status.jobs[state] || 0), 0);
    if (this._filling || this.sorted.waiting.length >= Math.min(there, QUEUE_SHOWN)) return;
    this._filling = true;
    try {
      for (const job of (await get("/v1/queue", { limit: QUEUE_READ })).jobs) this.keep(job);
    } catch {
      // the stream ends, too, and then all is read anew
    }
    this._filling = false;
  }

  /** Jobs beyond some thousands are dropped, those that ended first and those that wait longest: a page may stay open for months. */
  _forget() {
    if (this.jobs.size <= JOBS_KEPT) return;
    const { ended, waiting } = this.sorted;
    const dropped = ended.splice(ENDED_KEPT);
    if (dropped.length) this.endedSince = Date.parse(ended.at(-1).updated_at);
    for (const job of [...dropped, ...waiting.slice(QUEUE_READ)]) this.jobs.delete(job.id);
  }

  _failed(error) {
    const state = error instanceof ApiError ? "refused" : "away";
    const since = this.link.state === state ? this.link.since : Date.now();
    this.link = { state, error: state === "refused" ? error : null, since };
    this.tell();
  }
}

function sorted(jobs) {
  const found = { running: [], waiting: [], ended: [], endedOf: new Map() };
  for (const job of jobs) {
    if (RUNNING.includes(job.state)) found.running.push(job);
    else if (WAITING.includes(job.state)) found.waiting.push(job);
    else found.ended.push(job);
  }
  found.running.sort((one, other) => one.id - other.id);
  found.waiting.sort((one, other) => one.id - other.id);
  for (const job of found.ended) job.ended ??= Date.parse(job.updated_at);
  found.ended.sort((one, other) => other.ended - one.ended || other.id - one.id);
  for (const job of found.ended) {
    if (!found.endedOf.has(job.model)) found.endedOf.set(job.model, []);
    found.endedOf.get(job.model).push(job);
  }
  return found;
}
