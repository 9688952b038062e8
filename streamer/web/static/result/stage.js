// What a job's events look like: its output on the screen, and our own lines between it. A live run
// and the replay of one are the same events at different times.

import { OutputView } from "../output.js";
import { Screen } from "../screen.js";
import { bytes } from "../verdict.js";
import { textOf } from "./find.js";

export class Stage {
  #view;
  #screen = new Screen();
  #decoders = new Map(); // of streams whose bytes come as base64

  /** `ui` has the elements of the output, as `OutputView` wants them, and so is `onDraw`. */
  constructor(ui, onDraw) {
    this.#view = new OutputView(ui, onDraw);
    this.clear();
  }

  get screen() {
    return this.#screen;
  }

  /** Begin with nothing; `placesIn` finds places of the program, as `OutputView.show` has it. */
  clear(placesIn = null) {
    this.#screen = new Screen();
    this.#decoders.clear();
    this.#view.show(this.#screen, placesIn);
  }

  rowOf(number) {
    return this.#view.rowOf(number);
  }

  reveal(number) {
    this.#view.reveal(number);
  }

  /** Show one event; those that say nothing about the output change nothing. */
  apply(kind, data) {
    if (kind === "output") {
      this.#screen.write(data.stream, this.#textOf(data));
    } else if (kind === "typed") {
      this.#screen.echo(data.text);
    } else {
      const note = noteOf(kind, data);
      if (note === null) {
        return;
      }
      this.#screen.note(note);
    }
    this.#view.refresh();
  }

  /** What is shown, without our own notes. */
  text() {
    return textOf(this.#screen.from(0));
  }

  /** Show at once what there is, with the verdict. */
  draw() {
    this.#view.draw();
  }

  #textOf({ stream, data, encoding }) {
    if (encoding !== "base64") {
      return data;
    }
    if (!this.#decoders.has(stream)) {
      this.#decoders.set(stream, new TextDecoder());
    }
    const raw = Uint8Array.from(atob(data), (char) => char.charCodeAt(0));
    return this.#decoders.get(stream).decode(raw, { stream: true });
  }
}

/** The line of our own that an event is worth, or null. */
export function noteOf(kind, data) {
  if (kind === "status" && data.attempt) {
    return `The worker was lost; attempt ${data.attempt} begins anew.`;
  }
  if (kind === "truncated") {
    const { stream, droppedBytes } = data;
    return `The output limit was reached: ${bytes(droppedBytes)} of ${stream} were dropped.`;
  }
  if (kind === "gap") {
    return `The events ${data.from} to ${data.to} are no longer kept.`;
  }
  if (kind === "complete" && data.outputBytes === 0) {
    return "The program wrote nothing.";
  }
  return null;
}
