// Draws a Screen into the page, once a frame. Program output becomes Text nodes and nothing else.

import { PLAIN, paletteColour } from "./ansi.js";

const AT_END = 8; // pixels from the end that still count as having scrolled to it
const REST_PER_LINE_MS = 0.1; // a flood is drawn only now and then, so that the page stays responsive

export class OutputView {
  #box;
  #list;
  #dropped;
  #newest;
  #screen = null;
  #rows = [];
  #following = true; // whether the end stays in sight, until one scrolls up
  #top = 0;
  #scheduled = false;
  #restUntil = 0;

  /**
   * `box` scrolls and `list` inside it gets the lines, `dropped` shows how many are missing, and the
   * button `newest` scrolls back to the end.
   */
  constructor({ box, list, dropped, newest }) {
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

  /** Show another screen from its beginning. */
  show(screen) {
    this.#screen = screen;
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
      const row = rowOf(line);
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

function rowOf({ kind, runs, wrapped }) {
  const row = document.createElement("div");
  row.className = `line ${kind}`;
  for (const [text, style] of runs) {
    row.append(style === PLAIN ? text : spanOf(text, style));
  }
  if (!wrapped) {
    row.append("\n"); // an empty line keeps its height, and copied text its line ends
  }
  return row;
}

function spanOf(text, style) {
  const span = document.createElement("span");
  span.textContent = text;
  for (const name of ["bold", "dim", "italic", "underline", "strike", "typed"]) {
    span.classList.toggle(name, style[name] === true);
  }
  const { fg, bg, inverse } = style;
  const ground = inverse ? (fg ?? "base") : bg;
  const ink = (inverse ? (bg ?? "base") : fg) ?? inkOn(ground);
  colour(span, "fg", "color", ink);
  colour(span, "bg", "background-color", ground);
  span.classList.toggle("on-ground", ink !== "base" && ground !== null && ground < 16);
  return span;
}

/** The readable one of black and white on a ground that is not the style sheet's, else null. */
function inkOn(ground) {
  if (ground === null || ground === "base" || ground < 16) {
    return null;
  }
  const hex = typeof ground === "number" ? paletteColour(ground) : ground;
  const [red, green, blue] = hex.match(/[\da-f]{2}/g).map((two) => parseInt(two, 16));
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140 ? "#000000" : "#ffffff";
}

/**
 * Give the span a colour of the parser's: a class for what the style sheet knows (the sixteen,
 * and "base", the other of the two plain ones), else a property, which the policy allows.
 */
function colour(span, prefix, property, value) {
  if (value === null) {
    return;
  }
  if (value === "base" || value < 16) {
    span.classList.add(`${prefix}-${value}`);
  } else {
    span.style.setProperty(property, typeof value === "number" ? paletteColour(value) : value);
  }
}
