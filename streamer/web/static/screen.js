// What is shown of a job's output, as plain data: the newest lines, bounded.
//
// Both streams go to one list in the order of arrival. A line belongs to one stream: if the other
// stream writes in the middle of it, the line is interrupted and a new one begins below, so the
// newest text is always at the bottom.
//
// There is no grid as in a terminal. But a program that draws one picture over another, by clearing
// the screen or by going back to its upper left corner, is seen as it is meant.

import { AnsiParser, PLAIN } from "./ansi.js";

const RUN_WEIGHT = 20; // the cost of a run of text besides its characters
const MOST_FRAME_LINES = 200; // of a picture that is drawn over
const MOST_NOTES = 20; // that outlive a clearing of the screen

/** How text looks that was typed to the program. */
export const TYPED = Object.freeze({ ...PLAIN, typed: true });

/**
 * One shown line. `kind` is "stdout", "stderr", "typed" or "note", `runs` are [text, style] pairs, and
 * `wrapped` tells that it goes on in the next line because it is too long for one.
 */
class Line {
  runs = [];
  wrapped = false;
  weight = 0;

  constructor(number, kind) {
    this.number = number;
    this.kind = kind;
  }
}

/** The line that is being written: one cell for each character, so overwriting is cheap. */
class OpenLine {
  #chars = [];
  #styles = [];
  #column = 0;

  get isFull() {
    return this.#column >= this.limit;
  }

  constructor(limit, runs = []) {
    this.limit = limit;
    for (const [text, style] of runs) {
      for (const char of text) {
        this.put(char, style);
      }
    }
    this.#column = 0;
  }

  toEnd() {
    this.#column = this.#chars.length;
  }

  put(char, style) {
    this.#chars[this.#column] = char;
    this.#styles[this.#column] = style;
    this.#column += 1;
  }

  home() {
    this.#column = 0;
  }

  back() {
    this.#column = Math.max(0, this.#column - 1);
  }

  /** Erase from the cursor on (0), up to it (1), or both (2). */
  erase(mode) {
    if (mode === 0 || mode === 2) {
      this.#chars.length = this.#column;
      this.#styles.length = this.#column;
    }
    if (mode === 1 || mode === 2) {
      this.#chars.fill(" ", 0, this.#column + 1);
      this.#styles.fill(PLAIN, 0, this.#column + 1);
    }
  }

  runs() {
    const runs = [];
    let start = 0;
    for (let i = 1; i <= this.#chars.length; i += 1) {
      if (i === this.#chars.length || this.#styles[i] !== this.#styles[start]) {
        runs.push([this.#chars.slice(start, i).join(""), this.#styles[start]]);
        start = i;
      }
    }
    return runs;
  }
}

export class Screen {
  #limits;
  #lines = []; // those before #head are given up, and removed now and then: shifting costs
  #head = 0;
  #next = 0;
  #weight = 0;
  #open = null;
  #cells = null;
  #writers = new Map();
  #broken = new Set(); // streams whose line another one broke off: a line end belongs to that one
  #row = null; // the line on which `stream` goes on, above the end: {number, stream}
  #frame = 0; // the first line of the picture that is drawn over
  #changed = 0; // the first line that changed since this was last asked

  /** `maxWeight` bounds the characters shown, with a surcharge for each change of style. */
  constructor({ maxLines = 5000, maxColumns = 2000, maxWeight = 1_000_000 } = {}) {
    this.#limits = { maxLines, maxColumns, maxWeight };
  }

  /** The number of lines that were given up, which is the number of the first one kept. */
  get dropped() {
    return this.#next - (this.#lines.length - this.#head);
  }

  /** The kept lines from `number` on. */
  from(number) {
    if (this.#open !== null) {
      this.#open.runs = this.#cells.runs();
    }
    return this.#lines.slice(this.#head + Math.max(0, number - this.dropped));
  }

  /** Whether a line is being written. */
  get isOpen() {
    return this.#open !== null;
  }

  /** The number of the first line that changed since this was last asked, or is being written. */
  takeChanged() {
    const changed = this.#changed;
    this.#changed = this.#open === null ? this.#next : this.#open.number;
    return changed;
  }

  /** Show what a stream ("stdout" or "stderr") wrote next. */
  write(stream, text) {
    if (!this.#writers.has(stream)) {
      this.#writers.set(stream, { parser: new AnsiParser(), sink: this.#sink(stream) });
    }
    const { parser, sink } = this.#writers.get(stream);
    parser.feed(text, sink);
  }

  /** Show what was typed, as a terminal does: behind the question, and it ends the line. */
  echo(text) {
    for (const line of text.replace(/\n$/, "").split("\n")) {
      if (this.#open === null) {
        this.#begin("typed");
      }
      this.#cells.toEnd();
      for (const char of line.replace(/[\x00-\x08\x0a-\x1f\x7f-\x9f]/g, "")) {
        if (this.#cells.isFull) {
          break;
        }
        this.#cells.put(char, TYPED);
      }
      this.#finish();
    }
    this.#broken.clear();
  }

  /** Show a line of our own about the output. */
  note(text) {
    this.#finish();
    const line = this.#add("note");
    line.runs = [[text, PLAIN]];
    this.#close(line);
  }

  #sink(stream) {
    const mine = () => this.#open !== null && this.#open.kind === stream;
    const begin = () => {
      if (!mine()) {
        this.#begin(stream);
      }
      this.#broken.add(stream);
    };
    return {
      print: (text, style) => {
        begin();
        for (const char of text) {
          if (this.#cells.isFull) {
            this.#open.wrapped = true;
            this.#finish();
            begin();
          }
          this.#cells.put(char, style);
        }
      },
      newline: () => {
        if (mine() || !this.#broken.has(stream)) {
          begin();
          this.#finish();
        }
        this.#broken.delete(stream);
      },
      carriageReturn: () => mine() && this.#cells.home(),
      backspace: () => mine() && this.#cells.back(),
      eraseInLine: (mode) => mine() && this.#cells.erase(mode),
      eraseInDisplay: (mode) => this.#eraseInDisplay(stream, mode),
      home: () => this.#home(stream),
    };
  }

  #home(stream) {
    this.#finish();
    this.#broken.delete(stream);
    this.#frame = Math.max(this.#frame, this.dropped);
    if (this.#next - this.#frame <= MOST_FRAME_LINES) {
      this.#row = { number: this.#frame, stream };
    }
  }

  /** Erase from the cursor on (0), or everything (2, 3). */
  #eraseInDisplay(stream, mode) {
    if (mode === 2 || mode === 3) {
      this.#cut(this.dropped);
      this.#frame = this.#next;
    } else if (mode === 0 && this.#row?.stream === stream) {
      if (this.#open?.kind === stream) {
        this.#cells.erase(0);
        this.#finish();
      }
      this.#cut(this.#row?.number ?? this.#next);
    }
    this.#broken.delete(stream);
  }

  /** Remove the lines from `number` on, but for our own. */
  #cut(number) {
    this.#finish();
    const gone = this.#lines.splice(this.#head + Math.max(0, number - this.dropped));
    this.#next -= gone.length;
    this.#weight -= gone.reduce((sum, { weight }) => sum + weight, 0);
    this.#touch(this.#next);
    this.#row = null;
    for (const { runs } of gone.filter(({ kind }) => kind === "note").slice(-MOST_NOTES)) {
      this.note(runs[0][0]);
    }
  }

  /** Open the line on which a stream goes on. */
  #begin(stream) {
    this.#finish();
    const row = this.#row?.stream === stream ? this.#ownRow() : null;
    if (row === null) {
      this.#open = this.#add(stream);
      this.#cells = new OpenLine(this.#limits.maxColumns);
      return;
    }
    this.#weight -= row.weight;
    this.#cells = new OpenLine(this.#limits.maxColumns, row.kind === stream ? row.runs : []);
    Object.assign(row, { kind: stream, wrapped: false, weight: 0 });
    this.#open = row;
    this.#touch(row.number);
  }

  /** Return the line above the end that is written next, or null if that is a new one. */
  #ownRow() {
    let at = this.#head + Math.max(0, this.#row.number - this.dropped);
    while (at < this.#lines.length && this.#lines[at].kind === "note") {
      at += 1;
    }
    if (at === this.#lines.length) {
      this.#row = null;
      return null;
    }
    this.#row.number = this.#lines[at].number;
    return this.#lines[at];
  }

  #touch(number) {
    this.#changed = Math.min(this.#changed, number);
  }

  #add(kind) {
    const line = new Line(this.#next, kind);
    this.#next += 1;
    this.#lines.push(line);
    return line;
  }

  #finish() {
    if (this.#open !== null) {
      const line = this.#open;
      line.runs = this.#cells.runs();
      this.#open = null;
      this.#cells = null;
      if (this.#row !== null && this.#row.stream === line.kind && this.#row.number <= line.number) {
        this.#row.number = line.number + 1;
      }
      this.#close(line);
    }
  }

  #close(line) {
    line.weight = line.runs.reduce((sum, [text]) => sum + text.length + RUN_WEIGHT, RUN_WEIGHT);
    this.#weight += line.weight;
    const { maxLines, maxWeight } = this.#limits;
    while (
      this.#next - this.dropped > maxLines ||
      (this.#weight > maxWeight && this.#next - this.dropped > 1)
    ) {
      this.#weight -= this.#lines[this.#head].weight;
      this.#head += 1;
    }
    if (this.#head > maxLines) {
      this.#lines.splice(0, this.#head);
      this.#head = 0;
    }
  }
}
