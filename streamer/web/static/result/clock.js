// How long the program has been running, of how long it may: "running 4 s of 60 s".

/** A time in words: seconds, from 100 on minutes too. */
export function inWords(seconds) {
  if (seconds < 100) {
    return `${Math.floor(seconds)} s`;
  }
  const minutes = Math.floor(seconds / 60);
  const rest = Math.floor(seconds % 60);
  return rest === 0 ? `${minutes} min` : `${minutes} min ${rest} s`;
}

/** What is shown after `seconds` in a state, of which `limit` are allowed (null: not known). */
export function elapsed(seconds, limit) {
  const whole = limit === null ? "" : ` of ${inWords(limit)}`;
  return `${inWords(Math.max(0, Math.min(seconds, limit ?? Infinity)))}${whole}`;
}

/**
 * Tells the service's time since the job was accepted, from the times `t` of its events. An event
 * that arrives late says a time that is past, so the one with the least delay counts.
 */
export class JobTime {
  #offset = Infinity;

  /** Take note that an event of the time `t` has arrived at `now`, both in ms. */
  heard(t, now) {
    this.#offset = Math.min(this.#offset, now - t);
  }

  /** The time since the job was accepted, in ms; 0 before anything was heard. */
  at(now) {
    return this.#offset === Infinity ? 0 : now - this.#offset;
  }
}

export class Clock {
  #element;
  #time = new JobTime();
  #since = null;
  #limit = null;
  #timer = null;

  constructor(element) {
    this.#element = element;
  }

  reset() {
    this.#time = new JobTime();
    this.#limit = null;
    this.stop();
  }

  heard(t) {
    this.#time.heard(t, performance.now());
  }

  /** The time of the job, in ms since it was accepted. */
  time() {
    return this.#time.at(performance.now());
  }

  /** Count from the time `since` of the job, in ms since it was accepted. */
  start(since) {
    this.#since = since;
    this.#draw();
  }

  /** Say how many seconds there are at most; null if that is not known. */
  limit(seconds) {
    this.#limit = seconds;
    if (this.#since !== null) {
      this.#draw();
    }
  }

  stop() {
    clearTimeout(this.#timer);
    this.#since = null;
    this.#element.textContent = "";
  }

  #draw() {
    clearTimeout(this.#timer);
    const ms = this.#time.at(performance.now()) - this.#since;
    this.#element.textContent = elapsed(ms / 1000, this.#limit);
    this.#timer = setTimeout(() => this.#draw(), 1000 - (Math.max(0, ms) % 1000) + 10);
  }
}
