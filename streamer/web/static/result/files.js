// Shows the files that a program has left: images as they are, text on demand, all for download.
// Their names and contents are the program's: names become text, and what a file is says the
// service, whose answers for previews let a browser run nothing.

import { fileAddress } from "../api.js";
import { bytes } from "../verdict.js";
import { look } from "./preview.js";

const MOST_FILES = 200;
const MOST_IMAGES = 24;

const REASONS = {
  no_match: "there is no such file",
  not_a_file: "it is no regular file",
  bad_name: "its name is not allowed",
  unreadable: "the program took the permissions away",
  too_many_files: "there are too many files",
  too_large: "it is too large",
  storage_full: "the service has no room for it",
  search_incomplete: "not all folders could be searched",
  timeout: "collecting files took too long",
  sandbox_gone: "nothing is left of the sandbox",
};

/** Whether an address made of a name leads to that name: browsers resolve the dots of others. */
export const isPlain = (name) => name.split("/").every((part) => !["", ".", ".."].includes(part));

/** What of `artifactsFailed` is worth telling, in words; patterns that nothing matched are not. */
export function failuresOf(failed, patternsMatter) {
  return (failed ?? [])
    .filter(({ reason, name }) => reason !== "no_match" || patternsMatter || name !== undefined)
    .map(({ name, glob, reason }) => {
      const why = Object.hasOwn(REASONS, reason) ? REASONS[reason] : reason;
      return `${name ?? glob ?? "a file"} was not kept: ${why}`;
    });
}

export class Files {
  #ui;
  #jobId = null;
  #count = 0;
  #images = 0;
  #waiting = [];
  #looking = false;

  /** `ui` has the elements files (hidden while there are none), gallery, listed and unkept. */
  constructor(ui) {
    this.#ui = ui;
  }

  begin(jobId) {
    this.#jobId = jobId;
    this.#count = 0;
    this.#images = 0;
    this.#waiting = [];
    this.#ui.files.hidden = true;
    this.#ui.gallery.replaceChildren();
    this.#ui.listed.replaceChildren();
    this.#ui.unkept.replaceChildren();
  }

  /** Show one file: the data of an event `artifact`. */
  add(file) {
    this.#count += 1;
    if (this.#count > MOST_FILES || !isPlain(file.name)) {
      return;
    }
    this.#ui.files.hidden = false;
    const row = document.createElement("li");
    row.append(linkTo(this.#jobId, file));
    this.#ui.listed.append(row);
    this.#waiting.push({ file, row, jobId: this.#jobId });
    this.#lookAll();
  }

  /** The job is over: say what was not kept, in lines of text. */
  failed(lines) {
    const more = this.#count - MOST_FILES;
    const all = more > 0 ? [...lines, `${more} more files are not listed here.`] : lines;
    this.#ui.unkept.replaceChildren(
      ...all.map((line) => {
        const row = document.createElement("li");
        row.textContent = line;
        return row;
      }),
    );
    this.#ui.files.hidden &&= all.length === 0;
  }

  /** One after another, since a browser has six connections for all its tabs. */
  async #lookAll() {
    if (this.#looking) {
      return;
    }
    this.#looking = true;
    while (this.#waiting.length > 0) {
      const { file, row, jobId } = this.#waiting.shift();
      const address = fileAddress(jobId, file.name, { inline: true });
      const found = await look(address, file.bytes).catch(() => ({ kind: "other" }));
      if (jobId === this.#jobId && row.isConnected) {
        this.#show(found, file, row, address);
      }
    }
    this.#looking = false;
  }

  #show(found, file, row, address) {
    if (found.kind === "image" && this.#images < MOST_IMAGES) {
      this.#images += 1;
      this.#ui.gallery.append(figureOf(found, file, address, row));
    } else if (found.kind === "text") {
      row.append(textOf(found));
    }
  }
}

/** A link that saves a file, with its size. */
function linkTo(jobId, { name, bytes: size }) {
  const link = document.createElement("a");
  link.href = fileAddress(jobId, name);
  link.download = name.slice(name.lastIndexOf("/") + 1);
  const text = document.createElement("bdi"); // a name may run from right to left
  text.textContent = name;
  link.append(text);
  const about = document.createElement("span");
  about.className = "hint";
  about.textContent = ` ${bytes(size)}`;
  const both = document.createElement("span");
  both.append(link, about);
  return both;
}

function figureOf({ width, height }, { name }, address, row) {
  const figure = document.createElement("figure");
  const image = document.createElement("img");
  image.width = width;
  image.height = height;
  image.alt = `Image ${name}`;
  image.decoding = "async";
  image.addEventListener("error", () => image.remove()); // its link is still there
  image.src = address;
  const caption = document.createElement("figcaption");
  caption.append(...row.childNodes);
  row.remove();
  figure.append(image, caption);
  return figure;
}

function textOf({ text, whole }) {
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  summary.textContent = whole ? "Show" : "Show the beginning";
  const shown = document.createElement("pre");
  shown.textContent = text;
  shown.tabIndex = 0;
  details.append(summary, shown);
  return details;
}
