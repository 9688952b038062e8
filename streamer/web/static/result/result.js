// The result pane: one followed job at a time, and what came of it.

import * as api from "../api.js";
import { Follower } from "../follow.js";
import { current, goToLine, report, tell } from "../run.js";
import { keep, recall } from "../tab.js";
import { failureOf, verdictOf } from "../verdict.js";
import { onUse, setEnabled } from "./buttons.js";
import { Chart } from "./chart.js";
import { Clock } from "./clock.js";
import { failuresOf, Files } from "./files.js";
import * as patterns from "./patterns.js";
import { placesOf } from "./places.js";
import * as runs from "./runs.js";
import { Recording } from "./recording.js";
import { Replay } from "./replay.js";
import { Saving } from "./saving.js";
import { Search } from "./search.js";
import { share } from "./share.js";
import { Stage } from "./stage.js";
import { isThere, sizeIn, TerminalStage } from "./terminal.js";
import { takesTyping, Typing } from "./typing.js";

const pane = document.querySelector("#result-pane");
const ui = Object.fromEntries([...pane.querySelectorAll("[id]")].map((e) => [e.id, e]));
const watched = document.querySelector("#watched");

const stage = new Stage({ ...ui, list: ui.output }, () => search.refresh());
const search = new Search(
  {
    form: ui.finder,
    text: ui.sought,
    count: ui.matches,
    previous: ui.previous,
    close: ui.unfind,
    open: ui.find,
  },
  stage,
);
const terminal = new TerminalStage(ui.terminal, {
  typed: (text) => typing.type(text),
  resized(size) {
    if (current().active) {
      api.resizeJob(job.id, size).catch(() => {}); // it may be over by now
    }
  },
  held: (held) => follower?.hold(held),
  leave: () => ui.copy.focus(),
});
let shown = stage; // it, or the terminal
const saving = new Saving({ ...ui, list: ui.output }, () => shown.text());
const replay = new Replay(
  { bar: ui.replay, play: ui.play, slider: ui.slider, time: ui.played, speed: ui.speed },
  {
    clear: () => shown.clear(placesIn()),
    apply: (kind, data) => shown.apply(kind, data, { again: true }),
  },
);
const clock = new Clock(ui.clock);
const chart = new Chart(ui.usage);
const files = new Files(ui);
const typing = new Typing({ form: ui.typing, line: ui.line, eof: ui.eof }, ui.box, {
  typed: (text) => showTyped(text),
  failed: report,
});

const ENDED = { good: "done", bad: "failed", stopped: "stopped" };
const GONE = {
  title: "This run is gone",
  detail: "the service does not know it, or no longer keeps it.",
};

const EXPIRED = {
  title: "This link no longer works",
  detail: "it was made for a limited time. Ask for another one.",
};

/** Why a stream was refused, in words for whoever has opened a link. */
function inWords(refused, id) {
  if (refused.status === 404) {
    return new api.Problem(GONE);
  }
  return refused.status === 401 && api.isGranted(id) ? new api.Problem(EXPIRED) : refused;
}

let follower = null;
let recording = new Recording();
let job = null; // what is shown: {id, request, live, limits, complete}

let keepsFiles = true; // until the service says that it does not

/** The request with what this side wants of the job: typing, and the files that it leaves. */
export function prepare(request) {
  const prepared = { ...request };
  if (isThere() && ui.wanted.checked && request.cases === undefined) {
    pane.classList.add("on-terminal"); // which changes what room there is
    prepared.terminal ??= sizeIn(ui.screen);
  } else if (takesTyping(request)) {
    prepared.interactive = true;
  }
  const artifacts = patterns.wanted();
  if (keepsFiles && artifacts.length > 0 && request.cases === undefined) {
    prepared.artifacts ??= artifacts;
  }
  return prepared;
}

/** A request like one that was refused, but without what only this side wanted; null if none. */
export function without(problem, { artifacts, ...request }) {
  const ours = artifacts !== undefined && patterns.areUsual(artifacts);
  if (!ours || !problem.path?.startsWith("$.artifacts")) {
    return null;
  }
  keepsFiles = false;
  return request;
}

export function problem(told) {
  showState("");
  const place = told.path ? ` (at ${told.path})` : "";
  const title = told.message === told.title ? "" : `${told.title}: `;
  ui.problem.textContent = `${title}${told.message}${place}`;
  ui.problem.hidden = false;
}

export function sending() {
  showState("sending");
  ui.screen.scrollIntoView({ block: "nearest" }); // in a narrow window it is below the form
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

export function clear() {
  follower?.close();
  follower = null;
  job = null;
  typing.end();
  terminal.close();
  pane.classList.remove("on-terminal");
  shown = stage;
  ui.box.hidden = false;
  ui.find.hidden = false;
  clock.reset();
  chart.clear();
  files.begin(null);
  stage.clear();
  recording = new Recording();
  replay.offer(null);
  search.close();
  saving.offer(null);
  setEnabled(ui.share, false);
  showState("");
  showVerdict({ tone: "", text: "", facts: [] });
  for (const element of [ui.problem, ui.fallback]) {
    element.hidden = true;
  }
  ui.shared.textContent = "";
  watched.textContent = "";
  tell({ jobId: null, active: false, cancelling: false });
}

// One job

const handlers = {
  status({ state, position, t }) {
    showState(state, state === "queued" && position ? `queued, place ${position}` : state);
    if (state === "compiling" || state === "running") {
      // A compiler has the operator's limits, which are not told.
      clock.limit(state === "running" ? (job.limits?.wallTimeS ?? null) : null);
      clock.start(t);
      chart.begin(t);
    } else {
      clock.stop();
    }
    if (state === "running" && shown === terminal) {
      terminal.takesKeys = job.request !== null && typing.open({ keys: true });
    } else if (state === "running" && job.request?.interactive) {
      typing.open();
    }
  },
  stats(stats) {
    chart.add(stats);
  },
  artifact(file) {
    files.add(file);
  },
  complete(complete) {
    job.complete = complete;
    const asked = job.request?.artifacts;
    const matter = asked !== undefined && !patterns.areUsual(asked);
    files.failed(failuresOf(complete.artifactsFailed, matter));
    end(verdictOf(complete, job));
  },
  error(error) {
    end(failureOf(error));
  },
};

function receive(kind, data, id) {
  if (typeof data.t === "number") {
    clock.heard(data.t);
  }
  shown.apply(kind, data, { again: id <= typing.seen });
  recording.add(kind, data);
  handlers[kind]?.(data);
  for (const text of typing.echoesBehind(id)) {
    showTyped(text);
  }
}

function showTyped(text) {
  const typed = { text, t: clock.time() };
  stage.apply("typed", typed);
  recording.add("typed", typed);
}

const placesIn = () =>
  job === null || job.request === null ? null : placesOf(job.request, goToLine);

function over() {
  typing.end();
  if (shown === terminal) {
    terminal.takesKeys = false;
  }
  clock.stop();
  tell({ active: false });
}

function end(verdict) {
  shown.draw(); // so that all of the output is visible with the verdict
  showState(ENDED[verdict.tone]);
  showVerdict(verdict);
  replay.offer(recording);
  runs.update(job.id, { tone: verdict.tone, verdict: verdict.text });
  over();
}

export function show(id, { live, request }) {
  clear();
  job = { id, request, live, limits: null, complete: null };
  tell({ jobId: id, active: true });
  setEnabled(ui.share, true);
  saving.offer(id);
  files.begin(id);
  stage.clear(placesIn());
  typing.begin(id, request);
  begin(job);
}

async function begin(begun) {
  const { id, request } = begun;
  const described = describe(begun);
  // Who has started it knows whether it is on a terminal; others have to ask.
  const size = request === null ? (await described)?.terminal : request.terminal;
  if (size && isThere()) {
    await openTerminal(begun, size);
  }
  if (begun === job) {
    follow(id);
  }
}

/** Show the job on a terminal; without it, as when loading it fails, as plain output. */
async function openTerminal(begun, size) {
  try {
    await terminal.open(size, begun.request !== null);
  } catch {
    return;
  }
  if (begun !== job) {
    terminal.close();
    return;
  }
  shown = terminal;
  pane.classList.add("on-terminal");
  search.close();
  ui.box.hidden = true;
  ui.find.hidden = true;
  if (begun.request !== null && begun.live) {
    terminal.focus();
  }
}

function follow(id) {
  follower = new Follower(id, {
    event: receive,
    connection(state, lastId) {
      const place = lastId > 0 ? `resuming after event ${lastId}` : "trying again";
      ui.connection.textContent = state === "reconnecting" ? `connection lost, ${place}…` : "";
    },
    failure(refused) {
      showState("");
      setEnabled(ui.share, false);
      over();
      report(inWords(refused, id));
    },
  });
}

/** Ask for what no event says: the job's limits, and what it is if that is not known here; or null. */
async function describe(described) {
  try {
    const kept = await api.readJob(described.id);
    const { language, createdAt, limits } = kept;
    if (described !== job) {
      return null;
    }
    job.limits = limits;
    chart.limit(limits?.memoryBytes ?? null);
    if (ui.state.dataset.state === "running") {
      clock.limit(limits?.wallTimeS ?? null);
    } else if (job.complete !== null) {
      showVerdict(verdictOf(job.complete, job));
    }
    if (job.request === null) {
      const time = createdAt ? ` of ${new Date(createdAt).toLocaleString()}` : "";
      watched.textContent = `A ${language ?? "program"} run${time}.`;
    }
    return kept;
  } catch {
    return null; // the stream says what is wrong; this was only an addition
  }
}

export async function cancel() {
  tell({ cancelling: true });
  showState("cancelling");
  try {
    await api.cancelJob(job.id);
  } catch (refused) {
    if (refused.status !== 409) {
      // 409: it ended by itself in the meantime, which the stream is about to say.
      tell({ cancelling: false });
      report(refused);
    }
  }
}

export async function interrupt() {
  try {
    await api.signalJob(job.id, "SIGINT");
  } catch (refused) {
    if (refused.status !== 409) {
      report(refused);
    }
  }
}

async function copyLink() {
  ui.shared.textContent = "";
  try {
    await share(job.id, ui);
  } catch (refused) {
    report(refused);
  }
}

onUse(ui.share, copyLink);

ui.onterminal.hidden = !isThere();
ui.wanted.checked = recall("terminal") === true;
ui.wanted.addEventListener("change", () => keep("terminal", ui.wanted.checked));

ui.patterns.value = patterns.wanted().join("\n");
ui.patterns.addEventListener("change", () => {
  patterns.want(patterns.patternsIn(ui.patterns.value));
  ui.patterns.value = patterns.wanted().join("\n");
});
ui.usual.addEventListener("click", () => {
  patterns.want(patterns.USUAL);
  ui.patterns.value = patterns.wanted().join("\n");
});
