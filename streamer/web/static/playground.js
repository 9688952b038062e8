// The parts of the page together: the form, one followed job at a time, and its result.

import * as api from "./api.js";
import { Follower } from "./follow.js";
import { OutputView } from "./output.js";
import { SAMPLES } from "./samples.js";
import { Screen } from "./screen.js";
import { keep, recall } from "./tab.js";
import { bytes, failureOf, verdictOf } from "./verdict.js";

const ui = Object.fromEntries([...document.querySelectorAll("[id]")].map((e) => [e.id, e]));
const view = new OutputView({ ...ui, list: ui.output });

const ENDED = { good: "done", bad: "failed", stopped: "stopped" };
const GONE = {
  title: "This run is gone",
  detail: "the service does not know it, or no longer keeps it.",
};
const JOB_ID = /^[\w-]{1,200}$/;

let screen = new Screen();
let follower = null;
let jobId = null;
let sample = "";
const decoders = new Map(); // of this job's streams, where bytes come as base64

// The form

function fill(select, entries) {
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

async function loadChoices() {
  const [runtimes, sandboxes] = await Promise.all([api.listRuntimes(), api.listSandboxes()]);
  fill(
    ui.language,
    runtimes.map(({ name, available, reason }) => ({
      value: name,
      label: available ? name : `${name} (not installed)`,
      disabled: !available,
      reason,
    })),
  );
  fill(
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
}

function offerSample() {
  if (ui.code.value === sample) {
    sample = SAMPLES.get(ui.language.value) ?? "";
    ui.code.value = sample;
  }
}

function requestOfForm() {
  const request = { language: ui.language.value, code: ui.code.value };
  const args = ui.args.value.replace(/\n$/, "");
  if (args !== "") {
    request.args = args.split("\n");
  }
  if (ui.stdin.value !== "") {
    request.stdin = ui.stdin.value;
  }
  if (ui.sandbox.value !== "") {
    request.sandbox = ui.sandbox.value;
  }
  return request;
}

function fillForm(request) {
  ui.language.value = request.language;
  ui.sandbox.value = request.sandbox ?? "";
  ui.code.value = request.code;
  ui.args.value = (request.args ?? []).join("\n");
  ui.stdin.value = request.stdin ?? "";
  ui.more.open = ui.args.value !== "" || ui.stdin.value !== "";
}

// What is shown

/** Ask for a token; without it nothing else on the page works. */
function askForToken() {
  document.querySelector("main").classList.add("asking");
  ui.refused.hidden = !api.hasToken();
  ui.access.hidden = false;
  ui.token.focus();
}

function showProblem(problem) {
  if (problem.status === 401) {
    askForToken();
    return;
  }
  const place = problem.path ? ` (at ${problem.path})` : "";
  const title = problem.message === problem.title ? "" : `${problem.title}: `;
  ui.problem.textContent = `${title}${problem.message}${place}`;
  ui.problem.hidden = false;
}

function showState(state, text = state) {
  ui.state.dataset.state = state;
  ui.state.textContent = text;
}

function showVerdict({ tone, text, facts }) {
  ui.verdict.dataset.tone = tone;
  ui.verdict.textContent = text;
  ui.facts.replaceChildren(
    ...facts.map(([name, value]) => {
      const term = document.createElement("dt");
      const description = document.createElement("dd");
      const pair = document.createElement("div");
      term.textContent = name;
      description.textContent = value;
      pair.append(term, description);
      return pair;
    }),
  );
}

function setEnabled(button, enabled) {
  // aria-disabled, because a button that is truly disabled loses the keyboard's focus.
  button.setAttribute("aria-disabled", String(!enabled));
}

const isEnabled = (button) => button.getAttribute("aria-disabled") !== "true";

function setWatching(watching) {
  document.querySelector("main").classList.toggle("watching", watching);
  ui.watching.hidden = !watching;
  ui.program.hidden = watching;
}

function clearResult() {
  follower?.close();
  follower = null;
  jobId = null;
  decoders.clear();
  setEnabled(ui.run, true);
  setEnabled(ui.cancel, false);
  setEnabled(ui.share, false);
  screen = new Screen();
  view.show(screen);
  showState("");
  showVerdict({ tone: "", text: "", facts: [] });
  for (const element of [ui.problem, ui.fallback]) {
    element.hidden = true;
  }
  ui.watched.textContent = "";
}

// One job

function textOf({ stream, data, encoding }) {
  if (encoding !== "base64") {
    return data;
  }
  if (!decoders.has(stream)) {
    decoders.set(stream, new TextDecoder());
  }
  const raw = Uint8Array.from(atob(data), (char) => char.charCodeAt(0));
  return decoders.get(stream).decode(raw, { stream: true });
}

const handlers = {
  status({ state, position, attempt }) {
    if (attempt) {
      screen.note(`The worker was lost; attempt ${attempt} begins anew.`);
    }
    showState(state, state === "queued" && position ? `queued, place ${position}` : state);
  },
  output(output) {
    screen.write(output.stream, textOf(output));
  },
  truncated({ stream, droppedBytes }) {
    screen.note(`The output limit was reached: ${bytes(droppedBytes)} of ${stream} were dropped.`);
  },
  gap({ from, to }) {
    screen.note(`The events ${from} to ${to} are no longer kept.`);
  },
  complete(complete) {
    if (complete.outputBytes === 0) {
      screen.note("The program wrote nothing.");
    }
    end(verdictOf(complete));
  },
  error(error) {
    end(failureOf(error));
  },
};

function end(verdict) {
  view.draw(); // so that all of the output is visible with the verdict
  showState(ENDED[verdict.tone]);
  showVerdict(verdict);
  setEnabled(ui.run, true);
  setEnabled(ui.cancel, false);
}

function follow(id) {
  clearResult();
  jobId = id;
  setEnabled(ui.share, true);
  setEnabled(ui.run, false);
  setEnabled(ui.cancel, true);
  follower = new Follower(id, {
    event(kind, data) {
      handlers[kind](data);
      view.refresh();
    },
    connection(state, lastId) {
      const place = lastId > 0 ? `resuming after event ${lastId}` : "trying again";
      ui.connection.textContent = state === "reconnecting" ? `connection lost, ${place}…` : "";
    },
    failure(problem) {
      showState("");
      showProblem(problem.status === 404 ? new api.Problem(GONE) : problem);
      setEnabled(ui.share, false);
      setEnabled(ui.run, true);
      setEnabled(ui.cancel, false);
    },
  });
}

async function run() {
  if (!isEnabled(ui.run) || ui.program.hidden) {
    return;
  }
  clearResult();
  address(null);
  setEnabled(ui.run, false);
  showState("sending");
  ui.screen.scrollIntoView({ block: "nearest" }); // in a narrow window it is below the form
  const request = requestOfForm();
  try {
    const id = await api.execute(request);
    keep("run", { id, request }); // so that a reload still shows the code
    address(id);
    follow(id);
  } catch (problem) {
    showState("");
    showProblem(problem);
    setEnabled(ui.run, true);
  }
}

async function cancel() {
  if (!isEnabled(ui.cancel)) {
    return;
  }
  setEnabled(ui.cancel, false);
  showState("cancelling");
  try {
    await api.cancelJob(jobId);
  } catch (problem) {
    if (problem.status !== 409) {
      // 409: it ended by itself in the meantime, which the stream is about to say.
      showProblem(problem);
      setEnabled(ui.cancel, true);
    }
  }
}

// Links to a run

/** Make the page's own address the link to a run, or to none. */
function address(id) {
  const fragment = id === null ? "" : `#job=${id}`;
  history.replaceState(null, "", location.pathname + location.search + fragment);
}

/** Open the run that the address names, if it names one that is not open. */
function openLinked() {
  const id = new URLSearchParams(location.hash.slice(1)).get("job");
  if (id === null || id === jobId) {
    return;
  }
  if (!JOB_ID.test(id)) {
    clearResult();
    showProblem(new api.Problem({ title: "This link names no run; was it copied whole?" }));
    return;
  }
  const last = recall("run");
  const request = last?.id === id ? last.request : null;
  setWatching(request === null);
  follow(id);
  if (request === null) {
    describe(id);
  } else {
    fillForm(request);
  }
}

async function describe(id) {
  try {
    const { language, createdAt } = await api.readJob(id);
    const time = createdAt ? ` of ${new Date(createdAt).toLocaleString()}` : "";
    if (id === jobId) {
      ui.watched.textContent = `A ${language ?? "program"} run${time}.`;
    }
  } catch {
    // The stream says what is wrong; this was only an addition.
  }
}

async function copyLink() {
  if (!isEnabled(ui.share)) {
    return;
  }
  try {
    await navigator.clipboard.writeText(location.href);
    ui.share.textContent = "Link copied";
    setTimeout(() => (ui.share.textContent = "Copy link"), 2000);
  } catch {
    // No clipboard without HTTPS, or not allowed: show the link for copying by hand.
    ui.fallback.hidden = false;
    ui.link.value = location.href;
    ui.link.select();
  }
}

function writeOwn() {
  clearResult();
  address(null);
  setWatching(false);
  ui.code.focus();
}

ui.program.addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
ui.access.addEventListener("submit", (event) => {
  event.preventDefault();
  api.useToken(ui.token.value);
  location.reload();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.repeat) {
    event.preventDefault();
    run();
  }
});
ui.language.addEventListener("change", offerSample);
ui.cancel.addEventListener("click", cancel);
ui.share.addEventListener("click", copyLink);
ui.own.addEventListener("click", writeOwn);
window.addEventListener("hashchange", openLinked);

try {
  await loadChoices();
  offerSample();
} catch (problem) {
  showProblem(problem);
}
openLinked();
