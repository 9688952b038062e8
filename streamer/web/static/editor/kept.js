// What this browser keeps: the last program of each language, and how the page was left. Nothing if
// storage is full or turned off, as in some frames.

import { checked } from "./link.js";

const MOST_CHARS = 500_000;
const LARGEST_CHARS = 100_000;

const key = (name) => `streamer.${name}:${location.pathname}`;

/** Return what was kept under a name, or null. */
export function recall(name) {
  try {
    return JSON.parse(localStorage.getItem(key(name)));
  } catch {
    return null;
  }
}

/** Keep a value under a name; null keeps nothing. */
export function keep(name, value) {
  try {
    if (value === null) {
      localStorage.removeItem(key(name));
    } else {
      localStorage.setItem(key(name), JSON.stringify(value));
    }
  } catch {
    // The page works without; only its next visit then knows less.
  }
}

/**
 * Add a program to those that are kept: the newest of each language, and the newest of all within a
 * bound. One that is too large is not kept, nor is an older one in its place.
 */
export function withProgram(programs, request, now) {
  const others = programs.filter(({ language }) => language !== request.language);
  if (JSON.stringify(request).length > LARGEST_CHARS) {
    return others;
  }
  const all = [{ language: request.language, at: now, request }, ...others];
  let room = MOST_CHARS;
  return all.filter((each) => (room -= JSON.stringify(each).length) >= 0);
}

function programs() {
  const kept = recall("programs");
  const isProgram = (each) => checked(each?.request)?.language === each?.language;
  return Array.isArray(kept) ? kept.filter(isProgram) : [];
}

export function keepProgram(request) {
  keep("programs", withProgram(programs(), request, Date.now()));
}

export function forgetProgram(language) {
  keep(
    "programs",
    programs().filter((each) => each.language !== language),
  );
}

/** Return the last program of a language as a request, or null. */
export function lastProgram(language) {
  const found = programs().find((each) => each.language === language);
  return found === undefined ? null : checked(found.request);
}
