// Where the two halves of the page meet. The editor hands over a request, the result side shows the
// job, and each reaches the other through here: neither imports the other.

import { askForToken } from "./access.js";
import * as api from "./api.js";
import * as runs from "./result/runs.js";

const JOB_ID = /^[\w-]{1,200}$/;
const GRANT = /^[\w.~-]{1,500}$/;

let editor = null;
let result = null;
let shown = Object.freeze({ jobId: null, active: false, cancelling: false });
const listeners = new Set();

/**
 * The editor pane, for this module and the result side:
 *   request()             what would be run now: the body of POST /api/execute
 *   fill(request)         show a request
 *   hide(hidden)          away, as long as the page only follows a run that somebody shared
 *   goToLine(file, line)  put the cursor there, from line 1; a file of null is the program's entry
 *   focus()
 */
export function useEditor(pane) {
  editor = pane;
}

/**
 * The result pane, for this module and the editor:
 *   prepare(request)              the request with what the result side needs of the job
 *   without(problem, request)     a request that may do where one was refused, or null
 *   show(jobId, {live, request})  show a job from its beginning; `live` if it was started here and
 *                                 now, and `request` if this tab knows it, else null
 *   clear()                       show nothing, and let go of the job that was shown
 *   sending()                     a request is under way
 *   problem(problem)              show why something did not work
 *   cancel()                      ask for the end of the job that is shown
 *   interrupt()                   send SIGINT to its program
 */
export function useResult(pane) {
  result = pane;
}

/**
 * What is shown: {jobId, active, cancelling}; `active` while a request is under way or the job is
 * not over, `cancelling` when its end has been asked for.
 */
export const current = () => shown;

/** Call `listener(current())` on each change. */
export function onChange(listener) {
  listeners.add(listener);
}

/** Say what is shown; the result side does. */
export function tell(change) {
  shown = Object.freeze({ ...shown, ...change });
  for (const listener of listeners) {
    listener(shown);
  }
}

/** Show a problem, where it belongs. */
export function report(problem) {
  if (problem.status === 401) {
    askForToken();
  } else {
    result.problem(problem);
  }
}

/** Run what the editor has, unless something runs or nothing can. */
export async function start() {
  if (shown.active) {
    return;
  }
  result.clear();
  leave();
  tell({ active: true });
  result.sending();
  try {
    const { id, request } = await submit(result.prepare(editor.request()));
    runs.begin(id, request); // so that a reload still shows the code
    address(id);
    result.show(id, { live: true, request });
  } catch (problem) {
    tell({ active: false });
    report(problem);
  }
}

/** Submit a request; if only a wish of the page's own was refused, once more without it. */
async function submit(request) {
  try {
    return { id: await api.execute(request), request };
  } catch (problem) {
    const other = result.without(problem, request);
    if (other === null) {
      throw problem;
    }
    return { id: await api.execute(other), request: other };
  }
}

export const cancel = () => result.cancel();

export const interrupt = () => result.interrupt();

/** Show a line of the program in the editor. */
export const goToLine = (file, line) => editor.goToLine(file, line);

// The address of the page names what is shown.

const inFragment = (name) => new URLSearchParams(location.hash.slice(1)).get(name);
const addressed = () => inFragment("job");

/** Whether the address carries what opens its run, so that no token is needed. */
export const isGranted = () => GRANT.test(inFragment("grant") ?? "");

/** Make the page's own address the link to a run. */
function address(id) {
  history.replaceState(null, "", `${location.pathname}${location.search}#job=${id}`);
}

/** Make it the link to no run; "back" leads to the one that it named. */
function leave() {
  if (addressed() !== null) {
    history.pushState(null, "", location.pathname + location.search);
  }
}

/** Open the run that the address names, if it names one that is not open. */
export function openLinked() {
  const id = addressed();
  if (id === shown.jobId) {
    return;
  }
  if (id === null) {
    writeOwn();
    return;
  }
  if (!JOB_ID.test(id)) {
    result.clear();
    report(new api.Problem({ title: "This link names no run; was it copied whole?" }));
    return;
  }
  if (isGranted()) {
    api.useGrant(id, inFragment("grant"));
  }
  const request = runs.find(id)?.request ?? null;
  watch(request === null);
  if (request !== null) {
    editor.fill(request);
  }
  result.show(id, { live: false, request });
}

/** Leave a run that was only followed, for a program of one's own. */
export function writeOwn() {
  if (isGranted()) {
    location.assign(location.pathname + location.search); // with a token, if the service wants one
    return;
  }
  result.clear();
  leave();
  watch(false);
  editor.focus();
}

function watch(watching) {
  document.querySelector("main").classList.toggle("watching", watching);
  document.querySelector("#watching").hidden = !watching;
  editor.hide(watching);
}
