// The editor pane: what is to be run, and how.

import * as api from "../api.js";
import { SAMPLES } from "../samples.js";

const pane = document.querySelector("#editor-pane");
const ui = Object.fromEntries([...pane.querySelectorAll("[id]")].map((e) => [e.id, e]));

let sample = "";

function fillSelect(select, entries) {
  select.replaceChildren(
    ...entries.map(({ value, label, reason, disabled }) => {
      const option = new Option(label, value);
      option.disabled = disabled;
      option.title = reason ?? "";
      return option;
    }),
  );
}

const isolationIn = (isolation) =>
  isolation === "none" ? "no isolation" : isolation.replaceAll("_", " ");

/** Ask the service what there is to choose, and offer it. */
export async function loadChoices() {
  const [runtimes, sandboxes] = await Promise.all([api.listRuntimes(), api.listSandboxes()]);
  fillSelect(
    ui.language,
    runtimes.map(({ name, available, reason }) => ({
      value: name,
      label: available ? name : `${name} (not installed)`,
      disabled: !available,
      reason,
    })),
  );
  fillSelect(
    ui.sandbox,
    sandboxes.map(({ name, available, reason, isolation, default: isDefault, selectable }) => ({
      // The default goes unnamed: naming one is a right that not every caller has.
      value: isDefault ? "" : name,
      label: `${name}: ${available ? isolationIn(isolation) : "not available"}`,
      disabled: !available || !(isDefault || selectable),
      reason: reason ?? (isDefault || selectable ? "" : "callers may not choose it (sandbox.allow)"),
    })),
  );
  const usable = runtimes.filter(({ available }) => available).map(({ name }) => name);
  ui.language.value = usable.includes("python") ? "python" : (usable[0] ?? "");
  ui.sandbox.value = "";
  offerSample();
}

function offerSample() {
  if (ui.code.value === sample) {
    sample = SAMPLES.get(ui.language.value) ?? "";
    ui.code.value = sample;
  }
}

export function request() {
  const wanted = { language: ui.language.value, code: ui.code.value };
  const args = ui.args.value.replace(/\n$/, "");
  if (args !== "") {
    wanted.args = args.split("\n");
  }
  if (ui.stdin.value !== "") {
    wanted.stdin = ui.stdin.value;
  }
  if (ui.sandbox.value !== "") {
    wanted.sandbox = ui.sandbox.value;
  }
  return wanted;
}

export function fill(wanted) {
  ui.language.value = wanted.language;
  ui.sandbox.value = wanted.sandbox ?? "";
  ui.code.value = wanted.code;
  ui.args.value = (wanted.args ?? []).join("\n");
  ui.stdin.value = wanted.stdin ?? "";
  ui.more.open = ui.args.value !== "" || ui.stdin.value !== "";
}

export function hide(hidden) {
  pane.hidden = hidden;
}

export const isHidden = () => pane.hidden;

export function goToLine(_file, line) {
  const lines = ui.code.value.split("\n");
  const from = lines.slice(0, line - 1).reduce((sum, text) => sum + text.length + 1, 0);
  ui.code.focus();
  ui.code.setSelectionRange(from, from + (lines[line - 1] ?? "").length);
}

export const focus = () => ui.code.focus();

ui.language.addEventListener("change", offerSample);
