// Sends input to a program in order, each byte once: every request says the number of its first
// byte, so that it can be repeated when its answer was lost (`?seq=`).

const PIECE_CHARS = 16_384; // of one request
const MOST_CHARS = 1_000_000; // that wait to be sent
const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 8_000;
const PASSING = new Set([0, 429, 502, 503, 504]); // no answer, too busy, a proxy without its server

/** How long a piece from the start of a text may be without cutting a character in two. */
export function pieceOf(text, most = PIECE_CHARS) {
  const cut = text.slice(0, most);
  const last = cut.charCodeAt(cut.length - 1);
  const half = cut.length < text.length && last >= 0xd800 && last <= 0xdbff;
  return half ? cut.slice(0, -1) : cut;
}

export class Sender {
  #post;
  #on;
  #next;
  #waiting;
  #ending;
  #state = "open";
  #busy = false;
  #pause;

  /**
   * `post(bytes, {seq, close})` sends one request and throws a problem with a `status` if it is
   * refused. `on` has
   *   kept(state)      what to continue from after a reload: {next, waiting, ending}
   *   closed(problem)  nothing more is taken: `problem` says why, null if the input ended as it should
   * `from` is such a state; `pause(ms)` waits.
   */
  constructor(post, on, from = null, pause = (ms) => new Promise((go) => setTimeout(go, ms))) {
    this.#post = post;
    this.#on = on;
    this.#pause = pause;
    this.#next = from?.next ?? 0;
    this.#waiting = from?.waiting ?? "";
    this.#ending = from?.ending ?? false;
    this.#work();
  }

  get isOpen() {
    return this.#state === "open" && !this.#ending;
  }

  /** Send text; return whether it is taken. */
  send(text) {
    if (!this.isOpen || this.#waiting.length + text.length > MOST_CHARS) {
      return false;
    }
    this.#waiting += text;
    this.#keep();
    this.#work();
    return true;
  }

  /** End the input, behind what was sent. */
  end() {
    if (this.isOpen) {
      this.#ending = true;
      this.#keep();
      this.#work();
    }
  }

  /** Send no more: the program is over, or no longer shown. */
  stop() {
    this.#state = "stopped";
  }

  #keep() {
    this.#on.kept({ next: this.#next, waiting: this.#waiting, ending: this.#ending });
  }

  async #work() {
    if (this.#busy) {
      return;
    }
    this.#busy = true;
    while (this.#state === "open" && (this.#waiting !== "" || this.#ending)) {
      await this.#one();
    }
    this.#busy = false;
  }

  async #one() {
    const text = pieceOf(this.#waiting);
    const bytes = new TextEncoder().encode(text);
    const close = this.#ending && text.length === this.#waiting.length;
    const problem = await this.#insist(bytes, { seq: this.#next, close });
    if (this.#state !== "open") {
      return;
    }
    if (problem === null) {
      this.#next += bytes.length;
      this.#waiting = this.#waiting.slice(text.length);
      this.#keep();
    }
    if (problem !== null || close) {
      this.#state = "closed";
      this.#on.closed(problem);
    }
  }

  /** Repeat one request until it is answered; return null, or the problem that is final. */
  async #insist(bytes, how) {
    for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
      try {
        await this.#post(bytes, how);
        return null;
      } catch (problem) {
        if (!PASSING.has(problem.status) || this.#state !== "open") {
          return problem;
        }
        await this.#pause(pause);
      }
    }
  }
}
