// Draws a Screen into the page, once a frame. Program output becomes Text nodes and nothing else.

import { rowOf } from "./row.js";

const AT_END = 8; // pixels from the end that still count as having scrolled to it
const REST_PER_LINE_MS = 0.1; // a flood is drawn only now and then, so that the page stays responsive

export class OutputView {
  #box;
  #list;
  #dropped;
  #newest;
  #onDraw;
  #screen = null;
  #placesIn = null;
  #rows = [];
  #following = true; // whether the end stays in sight, until one scrolls up
  #top = 0;
  #scheduled = false;
  #restUntil = 0;

  /**
   * `box` scrolls and `list` inside it gets the lines, `dropped` shows how many are missing, and the
   * button `newest` scrolls back to the end. `onDraw()` is called after each drawing.
   */
  constructor({ box, list, dropped, newest }, onDraw = () => {}) {
    this.#onDraw = onDraw;
    this.#box = box;
    this.#list = list;
    this.#dropped = dropped;
    this.#newest = newest;
    box.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    newest.addEventListener("click", () => {
      this.#following = true;
      this.#settle();
    });
    new ResizeObserver(() => this.#settle()).observe(box);
  }

  /**
   * Show another screen from its beginning. `placesIn(text, kind)` finds places of the program in a
   * line (`streamer/web/static/result/places.js`), of which buttons are made.
   */
  show(screen, placesIn = null) {
    this.#screen = screen;
    this.#placesIn = placesIn;
    this.#rows = [];
    this.#following = true;
    this.#top = 0;
    this.#list.replaceChildren();
    this.#dropped.hidden = true;
    this.refresh();
  }

  /** Draw what changed, at the next frame; a hidden tab draws when it is seen again. */
  refresh() {
    if (this.#scheduled) {
      return;
    }
    this.#scheduled = true;
    const draw = () =>
      requestAnimationFrame(() => {
        this.#scheduled = false;
        this.draw();
      });
    setTimeout(draw, this.#restUntil - performance.now());
  }

  /** Draw what changed, at once. */
  draw() {
    const screen = this.#screen;
    const from = screen.takeChanged();
    this.#removeFrom(from);
    this.#removeDropped(screen.dropped);
    const fragment = document.createDocumentFragment();
    for (const line of screen.from(from)) {
      const row = rowOf(line, this.#placesIn);
      fragment.append(row);
      this.#rows.push({ number: line.number, row });
    }
    this.#restUntil = performance.now() + fragment.childElementCount * REST_PER_LINE_MS;
    this.#list.append(fragment);
    if (screen.dropped > 0) {
      const count = screen.dropped.toLocaleString("en");
      this.#dropped.textContent = `${count} earlier lines are no longer shown here.`;
      this.#dropped.hidden = false;
    }
    this.#settle();
    this.#onDraw();
  }

  /** The element of a line by its number, or null if it is not shown. */
  rowOf(number) {
    const first = this.#rows[0]?.number ?? 0;
    return this.#rows[number - first]?.row ?? null;
  }

  /** Bring a line into sight; the end is then no longer followed. */
  reveal(number) {
    const row = this.rowOf(number);
    if (row !== null) {
      this.#following = false;
      row.scrollIntoView({ block: "center" });
      this.#newest.hidden = false;
    }
  }

  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.#box;
    if (scrollHeight - scrollTop - clientHeight <= AT_END) {
      this.#following = true;
    } else if (scrollTop < this.#top) {
      // Only upwards: a box that became smaller is not at its end either.
      this.#following = false;
    }
    this.#top = scrollTop;
    this.#newest.hidden = this.#following;
  }

  #settle() {
    if (this.#following) {
      this.#box.scrollTop = this.#box.scrollHeight;
      this.#top = this.#box.scrollTop;
    }
    this.#newest.hidden = this.#following;
  }

  #removeFrom(number) {
    while (this.#rows.length > 0 && this.#rows.at(-1).number >= number) {
      this.#rows.pop().row.remove();
    }
  }

  #removeDropped(count) {
    const keep = this.#rows.findIndex(({ number }) => number >= count);
    const gone = this.#rows.splice(0, keep === -1 ? this.#rows.length : keep);
    for (const { row } of gone) {
      row.remove();
    }
  }
}
