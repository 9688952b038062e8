// What is typed to a program that runs: the line below the output, and the requests that carry it.

import * as api from "../api.js";
import { keep, recall } from "../tab.js";
import { InputLine } from "./inputline.js";
import * as runs from "./runs.js";
import { Sender } from "./sender.js";

// Their program comes by standard input, or goes on there: until it ends they wait.
const READ_ON = new Set(["sql"]);
const MOST_ECHOES = 200;

/**
 * Whether one can type to a program: where no input was given. Otherwise it ends behind what was
 * given, so that whoever reads to the end of it does not wait.
 */
export function takesTyping({ language, stdin, interactive, terminal, cases }) {
  const free = stdin === undefined && terminal === undefined && cases === undefined;
  return interactive ?? (free && !READ_ON.has(language));
}

export class Typing {
  #line;
  #on;
  #sender = null;
  #jobId = null;
  #echoes = [];
  #input = null;
  #lastId = 0;
  #seen = 0;

  /** `on` has typed(text) and failed(problem). */
  constructor(ui, after, on) {
    this.#line = new InputLine(ui, after);
    this.#on = on;
    // What a program asks of a terminal is answered once, and not again after a reload.
    window.addEventListener("pagehide", () => this.#sender !== null && this.#keep(this.#input));
  }

  /** Another job is shown: one that was asked for here by `request`, or null. */
  begin(jobId, request) {
    this.end();
    this.#jobId = jobId;
    this.#lastId = 0;
    const last = recall("typing"); // of the run that was shown last, at each key
    const known = last?.id === jobId ? last : runs.find(jobId)?.typed;
    const typed = request === null ? null : known;
    this.#echoes = typed?.echoes ?? [];
    this.#seen = typed?.seen ?? 0;
    this.#input = typed?.input ?? null;
  }

  /**
   * Its program runs, and input may be typed: into the line, or with `keys` by `type`. Return
   * whether it is taken.
   */
  open({ keys = false } = {}) {
    if (this.#sender !== null || this.#input?.ended) {
      return this.#sender?.isOpen ?? false;
    }
    const jobId = this.#jobId;
    const post = (bytes, how) => api.sendInput(jobId, bytes, how);
    const on = {
      kept: (state) => this.#keep(state),
      closed: (problem) => this.#closed(problem),
    };
    this.#sender = new Sender(post, on, this.#input);
    if (this.#sender.isOpen && !keys) {
      this.#line.offer({
        send: (text) => this.#send(text),
        end: () => this.#sender.end(),
      });
    }
    return this.#sender.isOpen;
  }

  /** Send keys to a terminal, which shows them itself. */
  type(text) {
    this.#sender?.send(text);
  }

  /** The number of the last event that this tab has shown of the job before it was loaded again. */
  get seen() {
    return this.#seen;
  }

  /** The event `id` has been shown: return what had been typed by then, once. */
  echoesBehind(id) {
    this.#lastId = Math.max(this.#lastId, id);
    const now = this.#echoes.filter(({ after, seen }) => !seen && after <= id);
    for (const echo of now) {
      echo.seen = true;
    }
    return now.map(({ text }) => text);
  }

  /** The program is over, or no longer shown. */
  end() {
    if (this.#sender !== null) {
      this.#sender.stop();
      this.#sender = null;
      runs.update(this.#jobId, { typed: this.#typed() });
    }
    this.#line.hide();
  }

  focus() {
    this.#line.focus();
  }

  #send(text) {
    const taken = this.#sender.send(text);
    if (taken) {
      this.#echoes = [...this.#echoes, { after: this.#lastId, text, seen: true }];
      this.#echoes = this.#echoes.slice(-MOST_ECHOES);
      this.#keep(this.#input);
      this.#on.typed(text);
    }
    return taken;
  }

  #typed() {
    return {
      echoes: this.#echoes.map(({ after, text }) => ({ after, text })),
      input: this.#input,
      seen: this.#lastId,
    };
  }

  #keep(input) {
    this.#input = input;
    keep("typing", { id: this.#jobId, ...this.#typed() });
  }

  #closed(problem) {
    this.#line.hide();
    this.#keep({ ...this.#input, ended: true });
    if (problem !== null && problem.status !== 409) {
      this.#on.failed(problem); // 409: the program is over, or has closed its input
    }
  }
}
