// The files of a program: which there are, which is shown, and which one is run.

const LONGEST_NAME = 200;

/** Why a file cannot have a name beside others of the same program; null if it can. */
export function faultIn(name, others) {
  if (name.trim() === "") {
    return "Give the file a name.";
  }
  if (name.length > LONGEST_NAME) {
    return `The name has ${name.length} characters, and ${LONGEST_NAME} are the most.`;
  }
  const parts = name.split("/");
  if (parts.some((part) => part === "" || part === "." || part === "..")) {
    return "Write a path inside the program's folder, such as lib/shapes.py.";
  }
  if (others.includes(name)) {
    return `There is a file ${name} already.`;
  }
  const folder = others.find(
    (other) => other.startsWith(`${name}/`) || name.startsWith(`${other}/`),
  );
  return folder === undefined ? null : `A file and a folder cannot have one name (${folder}).`;
}

let nextId = 1;

/** At least one file; each has an `id` for as long as it is there, a `name` and its `text`. */
export class Files {
  #files = [];
  #shown = 0;
  #entry = 0;

  /** `files` are {name, text}; `entry` names the one that is run, by default the first. */
  constructor(files, entry = files[0].name) {
    this.#files = files.map(({ name, text }) => ({ id: nextId++, name, text }));
    const found = this.#files.find(({ name }) => name === entry) ?? this.#files[0];
    this.#shown = found.id;
    this.#entry = found.id;
  }

  get all() {
    return this.#files;
  }

  get shown() {
    return this.#find(this.#shown);
  }

  get entry() {
    return this.#find(this.#entry);
  }

  /** The names of all files but the one with this id. */
  namesBeside(id) {
    return this.#files.filter((file) => file.id !== id).map(({ name }) => name);
  }

  named(name) {
    return this.#files.find((file) => file.name === name) ?? null;
  }

  show(id) {
    this.#shown = this.#find(id).id;
  }

  run(id) {
    this.#entry = this.#find(id).id;
  }

  add(name) {
    const file = { id: nextId++, name, text: "" };
    this.#files.push(file);
    this.#shown = file.id;
  }

  rename(id, name) {
    this.#find(id).name = name;
  }

  /** Remove a file, unless it is the last; its neighbour is shown and run in its place. */
  remove(id) {
    if (this.#files.length > 1) {
      const at = this.#files.findIndex((file) => file.id === id);
      this.#files.splice(at, 1);
      const neighbour = this.#files[Math.min(at, this.#files.length - 1)].id;
      this.#shown = this.#shown === id ? neighbour : this.#shown;
      this.#entry = this.#entry === id ? neighbour : this.#entry;
    }
  }

  /** The fields of a request for these files; `usual` is the language's name for a program. */
  request(usual) {
    if (this.#files.length === 1 && this.entry.name === usual) {
      return { code: this.entry.text };
    }
    const files = this.#files.map(({ name, text }) => ({ name, content: text }));
    return this.entry.name === usual ? { files } : { files, entry: this.entry.name };
  }

  #find(id) {
    return this.#files.find((file) => file.id === id);
  }
}

/** Read the files of a request. */
export function filesOf({ code, files, entry }, usual) {
  const read = (files ?? []).map(({ name, content }) => ({ name, text: content }));
  if (typeof code === "string") {
    read.unshift({ name: entry ?? usual, text: code });
  }
  return new Files(read.length > 0 ? read : [{ name: usual, text: "" }], entry ?? usual);
}
