// Takes the output out of the page: to the clipboard, or into files.

import { castAddress, outputAddress } from "../api.js";
import { onUse, saySoon, setEnabled } from "./buttons.js";

/** Put text into the clipboard, which a browser may refuse; return whether it is there. */
export async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // without HTTPS there is none
  }
}

export class Saving {
  #ui;

  /**
   * `ui` has the button copy, the menu `save` with the links stdout, stderr and cast, and `list`;
   * `text()` is what is copied.
   */
  constructor(ui, text) {
    this.#ui = ui;
    onUse(ui.copy, async () => {
      if (await toClipboard(text())) {
        saySoon(ui.copy, "Copied");
      } else {
        getSelection().selectAllChildren(ui.list);
        saySoon(ui.copy, "Press Ctrl+C", 5000);
      }
    });
    ui.save.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && ui.save.open) {
        ui.save.open = false;
        ui.save.querySelector("summary").focus();
      }
    });
    ui.save.addEventListener("focusout", ({ relatedTarget }) => {
      if (relatedTarget !== null && !ui.save.contains(relatedTarget)) {
        ui.save.open = false;
      }
    });
  }

  /** Offer the output of a job, or of none. */
  offer(jobId) {
    setEnabled(this.#ui.copy, jobId !== null);
    this.#ui.save.hidden = jobId === null;
    if (jobId !== null) {
      this.#ui.stdout.href = outputAddress(jobId, "stdout");
      this.#ui.stderr.href = outputAddress(jobId, "stderr");
      this.#ui.cast.href = castAddress(jobId);
    }
  }
}
