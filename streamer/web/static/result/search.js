// The search in the output: a line with the number of places, and marks in the text. The marks are
// highlights of the browser, which change nothing in the document.

import { matchesIn } from "./find.js";

const REST_MS = 200; // between two searches while the output grows

export class Search {
  #ui;
  #stage;
  #matches = [];
  #current = -1;
  #timer = null;
  #marks = null;
  #mark = null;

  /** `ui` has the elements form, text, count, previous, next, close, and the button `open`. */
  constructor(ui, stage) {
    this.#ui = ui;
    this.#stage = stage;
    if (globalThis.CSS?.highlights !== undefined) {
      this.#marks = new Highlight();
      this.#mark = new Highlight();
      this.#mark.priority = 1;
      CSS.highlights.set("found", this.#marks);
      CSS.highlights.set("found-now", this.#mark);
    }
    ui.open.addEventListener("click", () => (ui.form.hidden ? this.open() : this.close()));
    ui.text.addEventListener("input", () => this.#search(-1));
    ui.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#step(1);
    });
    ui.previous.addEventListener("click", () => this.#step(-1));
    ui.close.addEventListener("click", () => this.close());
    ui.form.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.preventDefault();
        this.close();
      } else if (event.key === "Enter" && event.shiftKey) {
        event.preventDefault();
        this.#step(-1);
      }
    });
  }

  open() {
    this.#ui.form.hidden = false;
    this.#ui.open.setAttribute("aria-expanded", "true");
    this.#ui.text.select();
    this.#ui.text.focus();
    this.#search(-1);
  }

  close() {
    const had = this.#ui.form.contains(document.activeElement);
    this.#ui.form.hidden = true;
    this.#ui.open.setAttribute("aria-expanded", "false");
    this.#matches = [];
    this.#show();
    if (had) {
      this.#ui.open.focus();
    }
  }

  /** The output has changed. */
  refresh() {
    if (!this.#ui.form.hidden && this.#timer === null) {
      this.#timer = setTimeout(() => {
        this.#timer = null;
        if (!this.#ui.form.hidden) {
          this.#search(this.#current);
        }
      }, REST_MS);
    }
  }

  #search(current) {
    const { matches, more } = matchesIn(this.#stage.screen.from(0), this.#ui.text.value);
    this.#matches = matches;
    this.#current = Math.min(current, matches.length - 1);
    this.#show(more);
  }

  #step(by) {
    const count = this.#matches.length;
    if (count > 0) {
      const from = this.#current === -1 && by < 0 ? 0 : this.#current;
      this.#current = (from + by + count) % count;
      this.#stage.reveal(this.#matches[this.#current].number);
      this.#show();
    }
  }

  #show(more = false) {
    const count = `${this.#matches.length}${more ? " or more" : ""}`;
    const place = this.#current === -1 ? `${count} found` : `${this.#current + 1} of ${count}`;
    this.#ui.count.textContent = this.#ui.form.hidden || this.#ui.text.value === "" ? "" : place;
    this.#marks?.clear();
    this.#mark?.clear();
    for (const [index, match] of this.#matches.entries()) {
      const row = this.#stage.rowOf(match.number);
      const range = row === null || this.#marks === null ? null : rangeIn(row, match);
      if (range !== null) {
        (index === this.#current ? this.#mark : this.#marks).add(range);
      }
    }
  }
}

/** The range of a row's text between two columns, or null if the row has changed. */
function rangeIn(row, { start, end }) {
  const range = new Range();
  const walker = document.createTreeWalker(row, NodeFilter.SHOW_TEXT);
  let at = 0;
  let begun = false;
  for (let node = walker.nextNode(); node !== null; node = walker.nextNode()) {
    const length = node.data.length;
    if (!begun && start < at + length) {
      range.setStart(node, start - at);
      begun = true;
    }
    if (begun && end <= at + length) {
      range.setEnd(node, end - at);
      return range;
    }
    at += length;
  }
  return null;
}
