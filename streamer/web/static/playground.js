// The page: its two halves together.

import * as editor from "./editor/editor.js";
import { listen } from "./keys.js";
import { isEnabled, onUse, setEnabled } from "./result/buttons.js";
import * as result from "./result/result.js";
import {
  cancel,
  current,
  interrupt,
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

const canStop = ({ jobId, active, cancelling }) => active && jobId !== null && !cancelling;

onChange((shown) => {
  setEnabled(run, !shown.active);
  setEnabled(stop, canStop(shown));
});

function runIfShown() {
  if (!editor.isHidden() && isEnabled(run) && editor.isComplete()) {
    start();
  }
}

document.querySelector("#program").addEventListener("submit", (event) => {
  event.preventDefault();
  runIfShown();
});
listen({
  run: runIfShown,
  interrupt,
  canInterrupt: () => canStop(current()),
  hasSelection: () => !editor.isHidden() && editor.hasSelection(),
});
onUse(stop, cancel);
document.querySelector("#own").addEventListener("click", writeOwn);
window.addEventListener("hashchange", () => {
  openLinked();
  editor.openLinked();
});

try {
  await editor.loadChoices();
} catch (problem) {
  if (!(problem.status === 401 && isGranted())) {
    report(problem);
  }
}
openLinked();
