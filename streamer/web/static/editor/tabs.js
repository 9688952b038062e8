// The tabs of a program's files, and what can be done with them.

import { faultIn } from "./files.js";

/**
 * `ui` has the elements `tabs` (the list), `add`, `rename`, `remove`, `start` (buttons) and the dialog
 * `naming` with what is in it. `on` has
 * shown(), called after another file is shown, changed(), after the files were changed, and
 * gone(file), after one of them was removed.
 */
export class Tabs {
  #ui;
  #on;
  #files = null;
  #named = null; // what the dialog is about: {title, id, done}

  constructor(ui, on) {
    this.#ui = ui;
    this.#on = on;
    ui.tabs.addEventListener("click", (event) => this.#click(event));
    ui.tabs.addEventListener("dblclick", () => this.#rename());
    ui.tabs.addEventListener("keydown", (event) => this.#key(event));
    ui.add.addEventListener("click", () => this.#add());
    ui.rename.addEventListener("click", () => this.#rename());
    ui.remove.addEventListener("click", () => this.#remove());
    ui.start.addEventListener("click", () => this.#start());
    ui["naming-form"].addEventListener("submit", (event) => this.#name(event));
    ui["naming-cancel"].addEventListener("click", () => ui.naming.close());
  }

  /** Show these files from now on. */
  show(files) {
    this.#files = files;
    this.draw();
  }

  draw() {
    const { all, shown, entry } = this.#files;
    const several = all.length > 1;
    const focused = this.#ui.tabs.contains(document.activeElement);
    this.#ui.tabs.replaceChildren(
      ...all.map((file) => {
        const tab = document.createElement("button");
        const starts = several && file === entry;
        tab.type = "button";
        tab.id = `file-${file.id}`;
        tab.dataset.file = file.id;
        tab.textContent = file.name;
        tab.setAttribute("role", "tab");
        tab.setAttribute("aria-selected", String(file === shown));
        tab.setAttribute("aria-controls", "code-panel");
        tab.tabIndex = file === shown ? 0 : -1;
        tab.classList.toggle("entry", starts);
        if (starts) {
          tab.title = "The program starts here";
          tab.setAttribute("aria-label", `${file.name}, the program starts here`);
        }
        return tab;
      }),
    );
    this.#ui["code-panel"].setAttribute("aria-labelledby", `file-${shown.id}`);
    this.#ui.remove.hidden = !several;
    this.#ui.start.hidden = !several || shown === entry;
    if (focused) {
      this.#ui.tabs.querySelector("[aria-selected=true]").focus();
    }
    this.#ui.tabs.querySelector("[aria-selected=true]").scrollIntoView({ block: "nearest" });
  }

  #show(id) {
    this.#files.show(id);
    this.draw();
    this.#on.shown();
  }

  #changed() {
    this.draw();
    this.#on.changed();
  }

  #click({ target }) {
    const tab = target.closest("[role=tab]");
    if (tab !== null) {
      this.#show(Number(tab.dataset.file));
    }
  }

  #key(event) {
    const { all, shown } = this.#files;
    const at = all.indexOf(shown);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: all.length - 1 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      this.#show(all[(to + all.length) % all.length].id);
    } else if (event.key === "F2") {
      this.#rename();
    } else if (event.key === "Delete") {
      this.#remove();
    }
  }

  #add() {
    const extension = /\.[^./]*$/.exec(this.#files.entry.name)?.[0] ?? "";
    this.#ask("Add a file", null, `file${this.#files.all.length + 1}${extension}`, (name) =>
      this.#files.add(name),
    );
  }

  #rename() {
    const { id, name } = this.#files.shown;
    this.#ask("Rename the file", id, name, (chosen) => this.#files.rename(id, chosen));
  }

  #remove() {
    const { all, shown } = this.#files;
    if (all.length > 1) {
      this.#files.remove(shown.id);
      this.#changed();
      this.#on.gone(shown);
    }
  }

  #start() {
    this.#files.run(this.#files.shown.id);
    this.#changed();
    this.#ui.tabs.querySelector("[aria-selected=true]").focus(); // its own button is away
  }

  #ask(title, id, name, done) {
    this.#named = { id, done };
    this.#ui["naming-title"].textContent = title;
    this.#ui["naming-fault"].textContent = "";
    this.#ui["file-name"].value = name;
    this.#ui.naming.showModal();
    this.#ui["file-name"].setSelectionRange(0, name.replace(/\.[^./]*$/, "").length);
  }

  #name(event) {
    event.preventDefault();
    const name = this.#ui["file-name"].value.trim();
    const fault = faultIn(name, this.#files.namesBeside(this.#named.id));
    this.#ui["naming-fault"].textContent = fault ?? "";
    if (fault === null) {
      this.#named.done(name);
      this.#ui.naming.close();
      this.#changed();
    }
  }
}
