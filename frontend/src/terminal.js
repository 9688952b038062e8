// The terminal of the playground: xterm.js, for programs that run on a pseudo-terminal.
//
// xterm.js writes its styles into style elements, which the policy of the page forbids: build.mjs has
// it make the element below instead, which uses a constructed style sheet.

import { FitAddon } from "@xterm/addon-fit";
import { Terminal } from "@xterm/xterm";
import styles from "@xterm/xterm/css/xterm.css";

const SCROLLBACK = 5000;
/** Control sequences that do something outside of the terminal: its title, links, the clipboard. */
const SWALLOWED = [0, 1, 2, 7, 8, 9, 52, 777, 1337];

class SheetElement extends HTMLElement {
  #sheet = new CSSStyleSheet();

  set textContent(text) {
    this.#sheet.replaceSync(text);
  }

  connectedCallback() {
    this.hidden = true;
    document.adoptedStyleSheets.push(this.#sheet);
  }

  disconnectedCallback() {
    const others = document.adoptedStyleSheets.filter((sheet) => sheet !== this.#sheet);
    document.adoptedStyleSheets = others;
  }
}

customElements.define("terminal-sheet", SheetElement);

const own = new CSSStyleSheet();
own.replaceSync(styles);
document.adoptedStyleSheets.push(own);

/** A terminal in an element. What a program writes to it stays within it. */
class TerminalView {
  #terminal;
  #fit = new FitAddon();
  #quiet = 0; // pieces of output that are shown again: nothing is answered to them

  constructor(host, { size, theme, font, label, onInput }) {
    this.#terminal = new Terminal({
      ...size,
      allowProposedApi: false,
      cursorBlink: false,
      fontFamily: font.family,
      fontSize: font.size,
      linkHandler: { activate() {} },
      screenReaderMode: false,
      scrollback: SCROLLBACK,
      theme,
    });
    this.#terminal.loadAddon(this.#fit);
    for (const code of SWALLOWED) {
      this.#terminal.parser.registerOscHandler(code, () => true);
    }
    this.#terminal.open(host);
    this.#terminal.textarea?.setAttribute("aria-label", label);
    this.#terminal.onData((text) => {
      if (this.#quiet === 0) {
        onInput(text);
      }
    });
    // Tab is the program's; the focus leaves by Escape with Shift, which no program gets.
    this.#terminal.attachCustomKeyEventHandler((event) => !(event.key === "Escape" && event.shiftKey));
  }

  /** Show what a program writes; `again` if it has been shown before. Resolves once it is drawn. */
  write(text, { again = false } = {}) {
    this.#quiet += again ? 1 : 0;
    return new Promise((resolve) => {
      this.#terminal.write(text, () => {
        this.#quiet -= again ? 1 : 0;
        resolve();
      });
    });
  }

  clear() {
    this.#terminal.reset();
  }

  /** Fill the element, and return the size that it then has: {cols, rows}. */
  fit() {
    this.#fit.fit();
    return this.size;
  }

  resize({ cols, rows }) {
    this.#terminal.resize(cols, rows);
  }

  get size() {
    return { cols: this.#terminal.cols, rows: this.#terminal.rows };
  }

  set theme(theme) {
    this.#terminal.options.theme = theme;
  }

  /** Whether keys are taken; output is shown in any case. */
  set takesKeys(takes) {
    this.#terminal.options.disableStdin = !takes;
    this.#terminal.options.cursorInactiveStyle = takes ? "outline" : "none";
  }

  focus() {
    this.#terminal.focus();
  }

  /** What is shown, and what has scrolled out of sight, as text. */
  text() {
    const buffer = this.#terminal.buffer.active;
    const lines = Array.from({ length: buffer.length }, (_, number) => buffer.getLine(number));
    return lines
      .map((line, number) => {
        const wraps = lines[number + 1]?.isWrapped ?? false;
        return line.translateToString(!wraps) + (wraps ? "" : "\n");
      })
      .join("")
      .replace(/\n+$/, "\n");
  }

  dispose() {
    this.#terminal.dispose();
  }
}

/**
 * Put a terminal into an element: `size` {cols, rows}, colours as xterm.js has them in `theme`, a
 * `font` {family, size}, a `label` for screen readers, and `onInput(text)` for what is typed.
 */
export const createTerminal = (host, options) => new TerminalView(host, options);
