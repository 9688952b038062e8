// Plays a recording: at a speed, from any place, as often as one likes.

export class Player {
  #recording;
  #stage;
  #now;
  #at = 0; // ms since the start
  #next = 0; // the number of the first event that is not shown
  #speed = 1;
  #since = null; // when the place was `#at`, while it plays

  /** `stage` has clear() and apply(kind, data); `now()` is a time in ms. */
  constructor(recording, stage, now = () => performance.now()) {
    this.#recording = recording;
    this.#stage = stage;
    this.#now = now;
    this.#at = recording.duration; // all of it is shown
    this.#next = Infinity;
  }

  get isPlaying() {
    return this.#since !== null;
  }

  get duration() {
    return this.#recording.duration;
  }

  get at() {
    return this.#at;
  }

  /** Go on, from the start if it is at its end. */
  play() {
    if (this.#at >= this.duration) {
      this.seek(0);
    }
    this.#since = this.#now();
  }

  pause() {
    this.tick();
    this.#since = null;
  }

  set speed(speed) {
    this.tick();
    this.#speed = speed;
  }

  /** Show what there was `ms` after the start. */
  seek(ms) {
    const to = Math.min(Math.max(0, ms), this.duration);
    if (to < this.#at || this.#next === Infinity) {
      this.#stage.clear();
      this.#next = 0;
    }
    this.#at = to;
    this.#show();
    if (this.isPlaying) {
      this.#since = this.#now();
    }
  }

  /** Show what is due; it pauses at the end. */
  tick() {
    if (this.isPlaying) {
      const now = this.#now();
      this.#at = Math.min(this.duration, this.#at + (now - this.#since) * this.#speed);
      this.#since = now;
      this.#show();
      if (this.#at >= this.duration) {
        this.#since = null;
      }
    }
  }

  #show() {
    const { events, next } = this.#recording.between(this.#next, this.#at);
    this.#next = next;
    for (const { kind, data } of events) {
      this.#stage.apply(kind, data);
    }
  }
}
