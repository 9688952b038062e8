// The last runs of this tab: what each was asked for, how it ended, and what was typed to it. They
// survive a reload, and the list leads back to each of them as long as the service keeps it.

import { keep, recall } from "../tab.js";

const MOST_RUNS = 20;
const MOST_CHARS = 1_000_000; // a tab may keep five million, and the editor keeps programs too

/** One kept run: {id, request, at, tone, verdict, typed}; `at` is a time of the clock in ms. */
const load = () => (recall("runs") ?? []).filter((run) => typeof run?.id === "string");

/** Keep the newest runs that fit; the newest one of all stays without its program if need be. */
export function fitting(runs, mostChars = MOST_CHARS) {
  const kept = [];
  let chars = 0;
  for (const run of runs.slice(0, MOST_RUNS)) {
    chars += JSON.stringify(run).length;
    if (chars > mostChars) {
      break;
    }
    kept.push(run);
  }
  return kept.length === 0 && runs.length > 0 ? [{ ...runs[0], request: null, typed: null }] : kept;
}

/** The kept runs, the newest first. */
export const list = load;

/** The kept run of a job, or null. */
export const find = (id) => load().find((run) => run.id === id) ?? null;

/** Keep a run that begins now. */
export function begin(id, request) {
  const run = { id, request, at: Date.now(), tone: "", verdict: "", typed: null };
  keep("runs", fitting([run, ...load().filter((other) => other.id !== id)]));
}

/** Add to what is kept of a run, if it is kept. */
export function update(id, change) {
  keep("runs", fitting(load().map((run) => (run.id === id ? { ...run, ...change } : run))));
}
