// What this tab remembers over a reload. Where storage is full or switched off, nothing.

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
