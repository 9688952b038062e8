// Keeps what a job wrote and when, so that its run can be shown again at its own pace.

const MOST_CHARS = 4_000_000;
const MOST_EVENTS = 100_000;
const EVENT_CHARS = 40; // what an event costs besides its text
const KEPT = new Set(["output", "typed", "truncated", "gap", "status"]);

const weightOf = ({ data }) => (data.data ?? data.text ?? "").length + EVENT_CHARS;

export class Recording {
  #events = []; // {t, kind, data}, in their order
  #chars = 0;
  #limits;
  #start = null;
  #lost = 0;

  constructor({ mostChars = MOST_CHARS, mostEvents = MOST_EVENTS } = {}) {
    this.#limits = { mostChars, mostEvents };
  }

  /** Take note of an event; one that does not say when it was is as late as the one before. */
  add(kind, data) {
    if (!KEPT.has(kind)) {
      return;
    }
    if (kind === "status" && ["compiling", "running"].includes(data.state)) {
      this.#start ??= data.t;
    }
    const event = { t: Math.max(data.t ?? 0, this.#events.at(-1)?.t ?? 0), kind, data };
    this.#events.push(event);
    this.#chars += weightOf(event);
    if (this.#chars > this.#limits.mostChars || this.#events.length > this.#limits.mostEvents) {
      this.#giveUp();
    }
  }

  /** Give up the oldest events, many at once: each time costs. */
  #giveUp() {
    const { mostChars, mostEvents } = this.#limits;
    const keep = { chars: mostChars * 0.75, events: mostEvents * 0.75 };
    let gone = 0;
    while (
      gone < this.#events.length - 1 &&
      (this.#chars > keep.chars || this.#events.length - gone > keep.events)
    ) {
      this.#chars -= weightOf(this.#events[gone]);
      gone += 1;
    }
    this.#events.splice(0, gone);
    this.#lost += gone;
    this.#start = this.#events[0].t;
  }

  /** How many events were given up for want of room. */
  get lost() {
    return this.#lost;
  }

  /** How long it takes, in ms. */
  get duration() {
    return Math.max(0, (this.#events.at(-1)?.t ?? 0) - (this.#start ?? this.#events[0]?.t ?? 0));
  }

  /** The events from number `index` on until `ms` after the start, and the number behind them. */
  between(index, ms) {
    const until = ms + (this.#start ?? this.#events[0]?.t ?? 0);
    let end = index;
    while (end < this.#events.length && this.#events[end].t <= until) {
      end += 1;
    }
    return { events: this.#events.slice(index, end), next: end };
  }
}
