// The editor where the bundle was not built, or is not wanted: a text area in which Tab indents,
// Shift+Tab takes that back, Enter keeps the indentation, and Escape and then Tab leaves.

const INDENT = "    ";

/** Several documents, of which it shows one. */
export class PlainArea {
  #area;
  #leaving = false;

  constructor(area, { onChange }) {
    this.#area = area;
    area.addEventListener("input", onChange);
    area.addEventListener("keydown", (event) => this.#key(event));
  }

  show({ text }) {
    if (this.#area.value !== text) {
      this.#area.value = text;
      this.#area.setSelectionRange(0, 0);
      this.#area.scrollTop = 0;
    }
  }

  forget() {
    // It keeps no more than what it shows.
  }

  text() {
    return this.#area.value;
  }

  hasSelection() {
    return this.#area.selectionStart !== this.#area.selectionEnd;
  }

  goToLine(number) {
    const lines = this.#area.value.split("\n");
    const at = Math.min(Math.max(1, number), lines.length) - 1;
    const from = lines.slice(0, at).reduce((sum, line) => sum + line.length + 1, 0);
    this.#area.focus();
    this.#area.setSelectionRange(from, from + lines[at].length);
    // No line is broken, so all are of one height.
    const height = this.#area.scrollHeight / lines.length;
    this.#area.scrollTop = at * height - this.#area.clientHeight / 2;
  }

  focus() {
    this.#area.focus();
  }

  describe(label) {
    this.#area.setAttribute("aria-label", label);
  }

  #key(event) {
    const { key, ctrlKey, altKey, metaKey, shiftKey, isComposing } = event;
    if (ctrlKey || altKey || metaKey || isComposing) {
      return;
    }
    if (key === "Tab" && !this.#leaving) {
      event.preventDefault();
      this.#indent(shiftKey);
    } else if (key === "Enter") {
      const before = this.#area.value.slice(0, this.#area.selectionStart);
      const blanks = /^[ \t]*/.exec(before.slice(before.lastIndexOf("\n") + 1))[0];
      if (blanks !== "") {
        event.preventDefault();
        insert(`\n${blanks}`);
      }
    }
    this.#leaving = key === "Escape" || (this.#leaving && key === "Shift");
  }

  #indent(back) {
    const { value, selectionStart, selectionEnd } = this.#area;
    if (!back && selectionStart === selectionEnd) {
      insert(INDENT);
      return;
    }
    const from = value.lastIndexOf("\n", selectionStart - 1) + 1;
    const lines = value.slice(from, selectionEnd).split("\n");
    const changed = lines.map((line) =>
      back ? line.replace(/^(\t| {1,4})/, "") : line === "" ? line : INDENT + line,
    );
    const text = changed.join("\n");
    if (text !== lines.join("\n")) {
      this.#area.setSelectionRange(from, selectionEnd);
      insert(text);
      const end = from + text.length;
      this.#area.setSelectionRange(lines.length === 1 ? end : from, end);
    }
  }
}

/** Type text, so that the browser's undo knows of it; nothing else does that. */
function insert(text) {
  document.execCommand(text === "" ? "delete" : "insertText", false, text);
}
