// Follows one job's events to their end, over any number of lost connections.

import { Problem, problemOf, streamAddress } from "./api.js";

const KINDS = ["status", "output", "truncated", "gap", "artifact", "stats", "complete", "error"];
const TERMINAL = new Set(["complete", "error"]);
const FIRST_RETRY_MS = 1000;
const LONGEST_RETRY_MS = 15000;

/**
 * One reader of a job. `on` has
 *   event(kind, data, id)   each event once, in order; the last is "complete" or "error". One of
 *                       "stats" comes as it is measured: it has no number of its own
 *   connection(state, lastId)   "connecting", "open", "reconnecting" or "closed", and the number
 *                       of the last event that arrived
 *   failure(problem)    the service refuses the stream; nothing follows
 */
export class Follower {
  #jobId;
  #on;
  #source = null;
  #lastId = 0;
  #retry = FIRST_RETRY_MS;
  #timer = null;
  #closed = false;
  #held = false;

  constructor(jobId, on) {
    this.#jobId = jobId;
    this.#on = on;
    on.connection("connecting", 0);
    document.addEventListener("visibilitychange", this.#look);
    this.#look();
  }

  close() {
    if (!this.#closed) {
      this.#closed = true;
      document.removeEventListener("visibilitychange", this.#look);
      this.#pause();
      this.#on.connection("closed", this.#lastId);
    }
  }

  /** Read nothing for now (true), or go on; nothing is lost. */
  hold(held) {
    this.#held = held;
    if (!this.#closed) {
      this.#look();
    }
  }

  /**
   * Follow while the tab is visible. A browser has six connections to a service for all its tabs
   * together: six streams in hidden tabs would leave none, not even for a cancel. Nothing is lost,
   * since a stream is resumed exactly.
   */
  #look = () => {
    if (document.hidden || this.#held) {
      this.#pause();
    } else if (this.#source === null) {
      this.#open();
    }
  };

  #pause() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
  }

  #address() {
    // A new EventSource cannot send Last-Event-ID, so the address says it.
    return streamAddress(this.#jobId, this.#lastId);
  }

  #open() {
    this.#source = new EventSource(this.#address());
    this.#source.addEventListener("open", () => {
      this.#retry = FIRST_RETRY_MS;
      this.#on.connection("open", this.#lastId);
    });
    for (const kind of KINDS) {
      this.#source.addEventListener(kind, (event) => this.#receive(kind, event));
    }
  }

  #receive(kind, event) {
    if (typeof event.data !== "string") {
      this.#connectionLost(); // the browser reports lost connections as "error" too, without data
      return;
    }
    if (kind === "stats") {
      this.#on.event(kind, JSON.parse(event.data), this.#lastId);
      return;
    }
    const id = Number(event.lastEventId);
    if (id <= this.#lastId) {
      return;
    }
    this.#lastId = id;
    if (TERMINAL.has(kind)) {
      this.close();
    }
    this.#on.event(kind, JSON.parse(event.data), id);
  }

  #connectionLost() {
    this.#on.connection("reconnecting", this.#lastId);
    if (this.#source.readyState === EventSource.CLOSED) {
      // Any answer but 200 ends an EventSource for good, a restarting proxy's 502 as well.
      this.#diagnose();
    }
  }

  async #diagnose() {
    const asking = this.#source;
    const problem = await this.#askWhy();
    if (this.#source !== asking) {
      return; // closed, or paused and perhaps resumed, in the meantime
    }
    if (problem === null) {
      this.#timer = setTimeout(() => this.#open(), this.#retry * (0.75 + Math.random() / 2));
      this.#retry = Math.min(this.#retry * 2, LONGEST_RETRY_MS);
    } else {
      this.close();
      this.#on.failure(problem);
    }
  }

  /** Return the problem that makes further attempts useless, or null. */
  async #askWhy() {
    const patience = new AbortController();
    const timer = setTimeout(() => patience.abort(), LONGEST_RETRY_MS);
    try {
      const response = await fetch(this.#address(), {
        headers: { Accept: "text/event-stream" },
        signal: patience.signal,
      });
      if (response.status === 204) {
        return new Problem({ title: "Over", detail: "The job is over and has no more to tell." });
      }
      const final = [400, 401, 403, 404, 410].includes(response.status);
      return final ? await problemOf(response) : null;
    } catch {
      return null; // not reachable now
    } finally {
      clearTimeout(timer);
      patience.abort(); // if the answer is a stream, only its status is needed
    }
  }
}
