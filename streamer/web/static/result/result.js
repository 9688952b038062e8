// The result pane: one followed job at a time, and what came of it.

import * as api from "../api.js";
import { Follower } from "../follow.js";
import { OutputView } from "../output.js";
import { report, tell } from "../run.js";
import { Screen } from "../screen.js";
import { bytes, failureOf, verdictOf } from "../verdict.js";

const ui = Object.fromEntries([...document.querySelectorAll("[id]")].map((e) => [e.id, e]));
const view = new OutputView({ ...ui, list: ui.output });

const ENDED = { good: "done", bad: "failed", stopped: "stopped" };
const GONE = {
  title: "This run is gone",
  detail: "the service does not know it, or no longer keeps it.",
};

let screen = new Screen();
let follower = null;
let jobId = null;
const decoders = new Map(); // of this job's streams, where bytes come as base64

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

function setEnabled(button, enabled) {
  // aria-disabled, because a button that is truly disabled loses the keyboard's focus.
  button.setAttribute("aria-disabled", String(!enabled));
}

const isEnabled = (button) => button.getAttribute("aria-disabled") !== "true";

export function clear() {
  follower?.close();
  follower = null;
  jobId = null;
  decoders.clear();
  setEnabled(ui.share, false);
  screen = new Screen();
  view.show(screen);
  showState("");
  showVerdict({ tone: "", text: "", facts: [] });
  for (const element of [ui.problem, ui.fallback]) {
    element.hidden = true;
  }
  ui.watched.textContent = "";
  tell({ jobId: null, active: false, cancelling: false });
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
  tell({ active: false });
}

export function show(id, { request }) {
  clear();
  jobId = id;
  tell({ jobId: id, active: true });
  setEnabled(ui.share, true);
  follower = new Follower(id, {
    event(kind, data) {
      handlers[kind](data);
      view.refresh();
    },
    connection(state, lastId) {
      const place = lastId > 0 ? `resuming after event ${lastId}` : "trying again";
      ui.connection.textContent = state === "reconnecting" ? `connection lost, ${place}…` : "";
    },
    failure(refused) {
      showState("");
      report(refused.status === 404 ? new api.Problem(GONE) : refused);
      setEnabled(ui.share, false);
      tell({ active: false });
    },
  });
  if (request === null) {
    describe(id);
  }
}

export async function cancel() {
  tell({ cancelling: true });
  showState("cancelling");
  try {
    await api.cancelJob(jobId);
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
    await api.signalJob(jobId, "SIGINT");
  } catch (refused) {
    if (refused.status !== 409) {
      report(refused);
    }
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

ui.share.addEventListener("click", copyLink);
