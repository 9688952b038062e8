// What this tab remembers over a reload; nothing if storage is full or turned off.

export function keep(key, value) {
  try {
    sessionStorage.setItem(`streamer.${key}`, JSON.stringify(value));
  } catch {
    // The page works without; only a reload then knows less.
  }
}

/** Return what was kept, or null. */
export function recall(key) {
  try {
    return JSON.parse(sessionStorage.getItem(`streamer.${key}`));
  } catch {
    return null;
  }
}
