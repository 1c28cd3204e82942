// What the page knows of the daemon, and how it stays true: one stream of events, and what is read whenever that begins.

import { ApiError, events, get } from "./api.js";

export const RUNNING = ["staging", "writing", "verifying", "committing"];
export const WAITING = ["detected", "queued", "waiting"];
export const ENDED = ["published", "failed", "superseded", "cancelled"];

const OPEN_SHOWN = 200;
const ENDED_SHOWN = 1000;
const JOBS_KEPT = 4000;
const SAMPLES_KEPT = 720;
const RETRY_MS = [500, 1000, 2000, 5000, 10000];

/** State of the page; `changed` is called, at most once a frame, when anything in it is another. */
export class Store {
  constructor(changed) {
    this.status = null;
    this.samples = [];
    this.jobs = new Map();
    this.link = { state: "connecting", error: null };
    this._changed = changed;
    this._waiting = false;
    this._restart = null;
    this._failures = 0;
  }

  /** Follow the daemon for ever. */
  async run() {
    for (;;) {
      const stop = new AbortController();
      this._restart = () => stop.abort();
      try {
        await this._follow(stop.signal);
        this._failed(null);
      } catch (error) {
        this._failed(error);
      }
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
  }

  /** Connect anew, now: after a token was given, say. */
  reconnect() {
    this._failures = 0;
    this._restart?.();
  }

  /** Jobs in any of these states, newest first. */
  jobsIn(states, model) {
    const wanted = new Set(states);
    const found = [...this.jobs.values()].filter((job) => wanted.has(job.state) && (!model || job.model === model));
    return found.sort((one, other) => other.id - one.id);
  }

  /** Take a job as it is now, unless what is known of it is newer. */
  keep(job) {
    const known = this.jobs.get(job.id);
    if (known && Date.parse(known.updated_at) > Date.parse(job.updated_at)) return;
    this.jobs.set(job.id, job);
    this.tell();
  }

  /** Have the page drawn. */
  tell() {
    if (this._waiting) return;
    this._waiting = true;
    requestAnimationFrame(() => {
      this._waiting = false;
      this._changed();
    });
  }

  async _follow(signal) {
    // The stream first: what happens while the rest is read comes by it.
    const stream = events("/v1/events?status=true", signal, () => this._opened());
    for await (const event of stream) {
      if (event.type === "status") this._status(event.data);
      else if (event.data.job) this.keep(event.data.job);
    }
  }

  _opened() {
    this._failures = 0;
    this.link = { state: "live", error: null };
    this.tell();
    this._read().catch((error) => this._failed(error));
  }

  async _read() {
    const status = await get("/v1/status");
    this.jobs.clear();
    const open = [...RUNNING, ...WAITING].filter((state) => status.jobs[state]);
    const pages = await Promise.all([
      get("/v1/history"),
      get("/v1/jobs", { limit: ENDED_SHOWN }),
      ...open.map((state) => get("/v1/jobs", { state, limit: OPEN_SHOWN })),
    ]);
    this.samples = pages[0].samples;
    this.status = status;
    for (const page of pages.slice(1)) page.jobs.forEach((job) => this.keep(job));
    this.tell();
  }

  _status({ status, sample }) {
    // whether this page may act does not come with the stream
    this.status = { ...status, may_act: this.status?.may_act ?? false };
    if (sample && this.samples.at(-1)?.at !== sample.at) {
      this.samples = [...this.samples.slice(1 - SAMPLES_KEPT), sample];
    }
    this._forget();
    this.tell();
  }

  /** Ended jobs are dropped, the oldest first: a page may stay open for months. */
  _forget() {
    if (this.jobs.size <= JOBS_KEPT) return;
    const ended = this.jobsIn(ENDED);
    for (const job of ended.slice(ENDED_SHOWN)) this.jobs.delete(job.id);
  }

  _failed(error) {
    const refused = error instanceof ApiError ? error : null;
    this.link = { state: refused ? "refused" : "away", error: refused };
    this.tell();
  }
}
