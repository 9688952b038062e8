// The page: its two halves together.

import * as editor from "./editor/editor.js";
import * as result from "./result/result.js";
import {
  cancel,
  current,
  isGranted,
  onChange,
  openLinked,
  report,
  start,
  useEditor,
  useResult,
  writeOwn,
} from "./run.js";

const run = document.querySelector("#run");
const stop = document.querySelector("#cancel");

useEditor(editor);
useResult(result);

function setEnabled(button, enabled) {
  // aria-disabled, because a button that is truly disabled loses the keyboard's focus.
  button.setAttribute("aria-disabled", String(!enabled));
}

const canStop = ({ jobId, active, cancelling }) => active && jobId !== null && !cancelling;

onChange((shown) => {
  setEnabled(run, !shown.active);
  setEnabled(stop, canStop(shown));
});

function runIfShown() {
  if (!editor.isHidden()) {
    start();
  }
}

document.querySelector("#program").addEventListener("submit", (event) => {
  event.preventDefault();
  runIfShown();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.repeat) {
    event.preventDefault();
    runIfShown();
  }
});
stop.addEventListener("click", () => {
  if (canStop(current())) {
    cancel();
  }
});
document.querySelector("#own").addEventListener("click", writeOwn);
window.addEventListener("hashchange", openLinked);

try {
  await editor.loadChoices();
} catch (problem) {
  if (!(problem.status === 401 && isGranted())) {
    report(problem);
  }
}
openLinked();
