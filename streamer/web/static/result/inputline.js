// The line below the output into which one types what the program asks for.

/** Split what was pasted into whole lines, which are sent, and the rest, which stays in the line. */
export function linesOf(text) {
  const parts = text.replace(/\r\n?/g, "\n").split("\n");
  return { whole: parts.slice(0, -1), rest: parts.at(-1) };
}

export class InputLine {
  #ui;
  #send = null;

  /** `ui` has the elements form, line, eof and hint; `after` gets the focus when the form goes. */
  constructor(ui, after) {
    this.#ui = { ...ui, after };
    ui.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#take([ui.line.value], "");
    });
    ui.line.addEventListener("paste", (event) => {
      const { value, selectionStart, selectionEnd } = ui.line;
      const pasted = event.clipboardData.getData("text/plain");
      if (/[\r\n]/.test(pasted)) {
        event.preventDefault();
        const all = value.slice(0, selectionStart) + pasted + value.slice(selectionEnd);
        const { whole, rest } = linesOf(all);
        this.#take(whole, rest);
      }
    });
    ui.eof.addEventListener("click", () => {
      if (ui.line.value !== "") {
        this.#take([ui.line.value], "");
      }
      this.#send?.end();
      this.hide();
    });
  }

  /** Offer the line; `send(text)` returns whether the text is taken, `end()` ends the input. */
  offer(send) {
    this.#send = send;
    this.#ui.line.value = "";
    this.#ui.form.hidden = false;
  }

  hide() {
    if (this.#ui.form.contains(document.activeElement)) {
      this.#ui.after.focus({ preventScroll: true });
    }
    this.#send = null;
    this.#ui.form.hidden = true;
  }

  focus() {
    this.#ui.line.focus({ preventScroll: true });
  }

  #take(lines, rest) {
    for (const [index, line] of lines.entries()) {
      if (!this.#send?.send(`${line}\n`)) {
        rest = [...lines.slice(index), rest].join(" ");
        break;
      }
    }
    this.#ui.line.value = rest;
  }
}
