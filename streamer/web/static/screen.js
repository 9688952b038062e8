// What is shown of a job's output, as plain data: the newest lines, bounded.
//
// Both streams go to one list in the order of arrival. A line belongs to one stream: if the other
// stream writes in the middle of it, the line is interrupted and a new one begins below, so the
// newest text is always at the bottom.

import { AnsiParser, PLAIN } from "./ansi.js";

const RUN_WEIGHT = 20; // the cost of a run of text besides its characters

/**
 * One shown line. `kind` is "stdout", "stderr" or "note", `runs` are [text, style] pairs, and
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

  constructor(limit) {
    this.limit = limit;
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

  /** `maxWeight` bounds the characters shown, with a surcharge for each change of style. */
  constructor({ maxLines = 5000, maxColumns = 2000, maxWeight = 1_000_000 } = {}) {
    this.#limits = { maxLines, maxColumns, maxWeight };
  }

  /** The number of lines that were given up, which is the number of the first one kept. */
  get dropped() {
    return this.#next - (this.#lines.length - this.#head);
  }

  /** The kept lines from `number` on; all but the very last of them are final. */
  from(number) {
    if (this.#open !== null) {
      this.#open.runs = this.#cells.runs();
    }
    return this.#lines.slice(this.#head + Math.max(0, number - this.dropped));
  }

  /** Whether the last line may still change. */
  get isOpen() {
    return this.#open !== null;
  }

  /** Show what a stream ("stdout" or "stderr") wrote next. */
  write(stream, text) {
    if (!this.#writers.has(stream)) {
      this.#writers.set(stream, { parser: new AnsiParser(), sink: this.#sink(stream) });
    }
    const { parser, sink } = this.#writers.get(stream);
    parser.feed(text, sink);
  }

  /** Show a line of our own about the output. */
  note(text) {
    this.#finish();
    const line = this.#add("note");
    line.runs = [[text, PLAIN]];
    this.#close(line);
  }

  #sink(stream) {
    let broken = false; // another stream broke our line off: a line end belongs to that one
    const mine = () => this.#open !== null && this.#open.kind === stream;
    const begin = () => {
      if (!mine()) {
        this.#finish();
        this.#open = this.#add(stream);
        this.#cells = new OpenLine(this.#limits.maxColumns);
      }
      broken = true;
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
        if (mine() || !broken) {
          begin();
          this.#finish();
        }
        broken = false;
      },
      carriageReturn: () => mine() && this.#cells.home(),
      backspace: () => mine() && this.#cells.back(),
      eraseInLine: (mode) => mine() && this.#cells.erase(mode),
    };
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
