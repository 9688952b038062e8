// One line about what has just happened to the program, with a way back.

/** `ui` has the elements `notice`, `told` (its text) and `undo` (its button). */
export class Notice {
  #ui;
  #back = null;

  constructor(ui) {
    this.#ui = ui;
    ui.undo.addEventListener("click", () => {
      const back = this.#back;
      this.hide();
      back?.();
    });
  }

  /** Say something; `back`, if there is one, is called if the button with the text `undo` is pressed. */
  say(text, undo = "", back = null) {
    this.#back = back;
    this.#ui.notice.hidden = false; // first: what appears with its text is not read out
    this.#ui.told.textContent = text;
    this.#ui.undo.textContent = undo;
    this.#ui.undo.hidden = back === null;
  }

  hide() {
    this.#back = null;
    this.#ui.told.textContent = "";
    this.#ui.notice.hidden = true;
  }
}
