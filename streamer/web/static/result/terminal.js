// Shows a job that runs on a terminal: xterm.js, from the bundle, which is loaded when it is first
// needed. It has what `Stage` has, and takes keys.

import { noteOf } from "./stage.js";

const HELD_CHARS = 4_000_000; // not drawn yet: then nothing more is read until they are
const SETTLE_MS = 150; // after the last change of the window's size
const SMALLEST = { cols: 20, rows: 5 };
const LARGEST = { cols: 300, rows: 100 };
const EDGES = { width: 2 + 8 + 14, height: 2 + 8 }; // borders, padding (result.css), scroll bar
const LABEL = "Terminal. Shift and Escape together leave it.";

/** Whether the page's bundle has a terminal. */
export const isThere = () =>
  document.querySelector('meta[name="streamer-bundle"]').content.split(" ").includes("terminal");

const within = (name, value) => Math.min(Math.max(Math.floor(value), SMALLEST[name]), LARGEST[name]);

/** The size that a terminal will have in an element, as xterm.js measures it: {cols, rows}. */
export function sizeIn(element) {
  const { size, family } = font();
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = `${size}px ${family}`;
  const { width, fontBoundingBoxAscent, fontBoundingBoxDescent } = pen.measureText("W");
  const height = Math.ceil(fontBoundingBoxAscent + fontBoundingBoxDescent);
  return {
    cols: within("cols", (element.clientWidth - EDGES.width) / width),
    rows: within("rows", (element.clientHeight - EDGES.height) / height),
  };
}

const variable = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();

const font = () => ({ family: variable("--mono"), size: 14 });

const SIXTEEN = [
  ...["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"],
  ...["brightBlack", "brightRed", "brightGreen", "brightYellow"],
  ...["brightBlue", "brightMagenta", "brightCyan", "brightWhite"],
];

function theme() {
  const colours = SIXTEEN.map((name, index) => [name, variable(`--c${index}`)]);
  return {
    ...Object.fromEntries(colours),
    background: variable("--screen"),
    foreground: variable("--screen-text"),
    cursor: variable("--accent"),
    cursorAccent: variable("--screen"),
    selectionBackground: variable("--edge"),
  };
}

/** What a program wrote as a terminal reads it; a compiler, which has none, ends lines by "\n". */
export const lineEnds = ({ phase, data }) =>
  phase === "compile" ? data.replace(/\r?\n/g, "\r\n") : data;

export class TerminalStage {
  #host;
  #on;
  #view = null;
  #decoder = new TextDecoder();
  #waiting = 0;
  #held = false;
  #timer = null;
  #fitted = false;
  #watching = new ResizeObserver(() => this.#resized());

  /**
   * `host` gets the terminal. `on` has
   *   typed(text)     keys, while they are taken
   *   resized(size)   it has another size now
   *   held(isHeld)    it is behind: no more events, or again
   *   leave()         the focus is to leave it
   */
  constructor(host, on) {
    this.#host = host;
    this.#on = on;
    host.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && event.shiftKey) {
        event.preventDefault();
        on.leave();
      }
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#recolour());
    new MutationObserver(() => this.#recolour()).observe(document.documentElement, {
      attributes: true,
    });
  }

  /** Load what is needed and begin with an empty terminal; `mine` if keys and sizes are ours to send. */
  async open(size, mine) {
    const { createTerminal } = await import("../bundle/terminal.js");
    this.close();
    this.#host.hidden = false;
    this.#view = createTerminal(this.#host, {
      font: font(),
      label: LABEL,
      onInput: (text) => this.#on.typed(text),
      size,
      theme: theme(),
    });
    this.#view.takesKeys = false;
    this.#fitted = mine;
    this.#watching.observe(this.#host);
  }

  close() {
    clearTimeout(this.#timer);
    this.#watching.disconnect();
    this.#view?.dispose();
    this.#view = null;
    this.#host.replaceChildren();
    this.#host.hidden = true;
    this.#waiting = 0;
    this.#held = false;
  }

  clear() {
    this.#decoder = new TextDecoder();
    this.#view.clear();
  }

  /** Show one event; `again` if it was shown before, so that questions in it are not answered. */
  apply(kind, data, { again = false } = {}) {
    if (kind === "output") {
      this.#write(lineEnds({ ...data, data: this.#textOf(data) }), again);
      return;
    }
    const note = noteOf(kind, data);
    if (note !== null) {
      this.#write(`\r\n\x1b[2m${note.replace(/[\x00-\x1f\x7f-\x9f]/g, "")}\x1b[0m\r\n`, true);
    }
  }

  draw() {}

  text() {
    return this.#view.text();
  }

  get size() {
    return this.#view.size;
  }

  /** Whether the program takes keys. */
  set takesKeys(takes) {
    this.#view.takesKeys = takes;
  }

  focus() {
    this.#view.focus();
  }

  #textOf({ data, encoding }) {
    if (encoding !== "base64") {
      return data;
    }
    const raw = Uint8Array.from(atob(data), (char) => char.charCodeAt(0));
    return this.#decoder.decode(raw, { stream: true });
  }

  async #write(text, again) {
    const view = this.#view;
    this.#waiting += text.length;
    this.#hold(this.#waiting > HELD_CHARS);
    await view.write(text, { again });
    if (view === this.#view) {
      this.#waiting -= text.length;
      this.#hold(this.#held && this.#waiting > HELD_CHARS / 4);
    }
  }

  #hold(held) {
    if (held !== this.#held) {
      this.#held = held;
      this.#on.held(held);
    }
  }

  #resized() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (this.#view !== null && this.#fitted && this.#host.clientWidth > 0) {
        const { cols, rows } = this.#view.size;
        const now = this.#view.fit();
        if (now.cols !== cols || now.rows !== rows) {
          this.#on.resized(now);
        }
      }
    }, SETTLE_MS);
  }

  #recolour() {
    if (this.#view !== null) {
      this.#view.theme = theme();
    }
  }
}
