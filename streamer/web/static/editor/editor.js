// The editor pane: what is to be run, and how.

import { canHighlight, isPlainWanted, openArea } from "./area.js";
import { Choices } from "./choices.js";
import { examplesFor, firstOf } from "./examples.js";
import { filesOf } from "./files.js";
import { forgetProgram, keep, keepProgram, lastProgram, recall } from "./kept.js";
import { checked, pack, unpack } from "./link.js";
import { Notice } from "./notice.js";
import { Settings } from "./settings.js";
import { Tabs } from "./tabs.js";

const KEEP_AFTER_MS = 400;
const LONG_LINK_CHARS = 8000;

const pane = document.querySelector("#editor-pane");
const ui = Object.fromEntries([...pane.querySelectorAll("[id]")].map((e) => [e.id, e]));

const choices = new Choices(ui);
const settings = new Settings(ui, changed);
const notice = new Notice(ui);
const tabs = new Tabs(ui, { shown: showFile, changed: filesChanged, gone: fileGone });

let area = openArea(ui.code, ui.highlighted, {
  onChange: typed,
  better({ editor, replace }) {
    replace(shownDocument());
    area = editor;
    showFile();
  },
});
let files = filesOf({ code: "" }, "main");
let language = ""; // the one that the program is written in
let edited = false; // since it was put here
let keeping = null;

// The program

const usualName = () => choices.runtime?.entry ?? "main";

/** Show a program, given as the request for it. */
function put(program) {
  clearTimeout(keeping);
  choices.choose(program);
  language = ui.language.value;
  offerLimits();
  settings.fill(program);
  setFiles(filesOf(program, usualName()));
  edited = false;
}

function setFiles(replaced) {
  for (const { id } of files.all) {
    area.forget(id);
  }
  files = replaced;
  tabs.show(files);
  showFile();
}

/** What the area shows: a file without an extension is taken for one of the language. */
function shownDocument() {
  const { id, name, text } = files.shown;
  const extension = usualName().slice(usualName().lastIndexOf("."));
  return { id, name: /\.\w+$/.test(name) ? name : name + extension, text };
}

function showFile() {
  area.show(shownDocument());
  area.describe(files.all.length > 1 ? `Program, file ${files.shown.name}` : "Program");
}

function filesChanged() {
  showFile();
  changed();
}

function fileGone({ id, name, text }) {
  area.forget(id);
  notice.say(`${name} was removed.`, "Put it back", () => {
    files.add(name);
    files.shown.text = text;
    tabs.draw();
    filesChanged();
  });
}

function typed() {
  const text = area.text();
  if (text !== files.shown.text) {
    files.shown.text = text;
    changed();
  }
}

/** Keep the program in this browser, soon. */
function changed() {
  edited = true;
  if (location.hash.startsWith("#code=")) {
    // It is no longer the program of that link, which a reload would bring back.
    history.replaceState(null, "", location.pathname + location.search);
  }
  clearTimeout(keeping);
  keeping = setTimeout(keepNow, KEEP_AFTER_MS);
}

function keepNow() {
  clearTimeout(keeping);
  if (edited && language !== "") {
    const program = request();
    if (isUntouched(program)) {
      forgetProgram(language);
    } else {
      keepProgram(program);
    }
  }
}

const isUntouched = (program) => JSON.stringify(program) === JSON.stringify(firstOf(language));

/** Put another program in the place of this one, and offer a way back. */
function replace(program, told) {
  const before = request();
  const worth = !isUntouched(before) && (edited || before.code !== "");
  keepNow();
  put(program);
  if (worth) {
    notice.say(told, "Put mine back", () => put(before));
  } else {
    notice.hide();
  }
}

// What the page and the result side ask of this pane

/** Ask the service what there is to choose, and show the last program, or a first one. */
export async function loadChoices() {
  await choices.load();
  ui.example.replaceChildren(
    new Option("Examples…", ""),
    ...examplesFor(choices.available).map(({ title }, index) => new Option(title, String(index))),
  );
  const usable = choices.available.map(({ name }) => name);
  const first = [recall("language"), "python"].find((name) => usable.includes(name)) ?? usable[0];
  if (first === undefined) {
    notice.say("No language can be run here at the moment: see streamer doctor.");
  } else {
    put(lastProgram(first) ?? firstOf(first));
  }
  await openLinked();
}

/** The body of POST /api/execute for what is shown. */
export function request() {
  return { ...choices.request(), ...files.request(usualName()), ...settings.request() };
}

/** Show the program of a run; what the result side has added to its request is no part of it. */
export function fill(program) {
  const asked = checked(program);
  if (asked !== null && JSON.stringify(asked) !== JSON.stringify(checked(request()))) {
    replace(asked, "This is the program of the run that is shown.");
  }
}

/** Whether all settings can be sent; if not, the browser says at the field what is wrong. */
export function isComplete() {
  if (!ui.program.checkValidity()) {
    ui.more.open = true; // a field that is not shown cannot say anything
  }
  return ui.program.reportValidity();
}

export function hide(hidden) {
  pane.hidden = hidden;
}

export const isHidden = () => pane.hidden;

export const focus = () => area.focus();

export const hasSelection = () => area.hasSelection();

/** Put the cursor into a line, from 1, of a file; without a name, of the one that is run. */
export function goToLine(name, line) {
  const named = name === null ? null : files.named(name.replace(/^(\/work|\.)\//, ""));
  const file = named ?? files.entry;
  if (file !== files.shown) {
    files.show(file.id);
    tabs.draw();
    showFile();
  }
  area.goToLine(line);
}

/** Show the program that the address has, if it has one. Nothing runs before somebody says so. */
export async function openLinked() {
  const packed = new URLSearchParams(location.hash.slice(1)).get("code");
  if (packed === null) {
    return;
  }
  const program = await unpack(packed);
  if (program === null) {
    notice.say("This link holds no program; was it copied whole?");
  } else if (choices.named(program.language) === null) {
    notice.say(`This link holds a program in ${program.language}, which this service has not.`);
  } else {
    replace({ ...program, language: choices.named(program.language).name }, "Opened from a link.");
  }
}

async function copyLink() {
  const { origin, pathname, search } = location;
  const link = `${origin}${pathname}${search}#code=${await pack(request())}`;
  const long = link.length > LONG_LINK_CHARS ? ` It is long (${link.length} characters): some programs cut it.` : "";
  try {
    await navigator.clipboard.writeText(link);
    ui["program-link"].hidden = true;
    notice.say(`Link to this program copied; it holds the program itself.${long}`);
  } catch {
    // No clipboard without HTTPS, or not allowed: show the link for copying by hand.
    ui["program-link"].hidden = false;
    ui["program-address"].value = link;
    ui["program-address"].select();
    notice.say(`This link holds the program itself.${long}`);
  }
}

// What is chosen

function offerLimits() {
  settings.offer(choices.runtime?.limits ?? {}, choices.maxLimits);
}

/** Another language: its own last program, but what was written just now stays. */
function languageChosen() {
  const chosen = ui.language.value;
  if (chosen === language) {
    return;
  }
  keep("language", chosen);
  const other = lastProgram(chosen) ?? firstOf(chosen);
  const before = { ...request(), language };
  const text = files.entry.text;
  if (!edited || isUntouched(before) || files.all.every((file) => file.text.trim() === "")) {
    put({ sandbox: ui.sandbox.value, ...other });
    notice.hide();
    return;
  }
  keepProgram(before);
  const former = choices.named(language);
  language = chosen;
  choices.showEnvironments();
  offerLimits();
  const entry = files.entry;
  if (entry.name === former?.entry && files.named(usualName()) === null) {
    files.rename(entry.id, usualName());
  }
  tabs.draw();
  filesChanged();
  const title = choices.runtime.title;
  const what = lastProgram(chosen) === null || text === "" ? "an example" : "my last one";
  notice.say("Your program stays as it is.", `Show ${what} in ${title}`, () => put(other));
}

function exampleChosen() {
  const example = examplesFor(choices.available)[Number(ui.example.value)];
  ui.example.value = "";
  replace(example.request, `Example: ${example.title}.`);
  area.focus();
}

ui.language.addEventListener("change", languageChosen);
ui.environment.addEventListener("change", changed);
ui.sandbox.addEventListener("change", changed);
ui.example.addEventListener("change", exampleChosen);
ui["share-program"].addEventListener("click", copyLink);
window.addEventListener("pagehide", keepNow);

const plain = document.querySelector("#plain");
plain.parentElement.hidden = !canHighlight;
plain.checked = isPlainWanted();
plain.addEventListener("change", () => {
  keepNow();
  keep("plain", plain.checked ? true : null);
  location.reload();
});
