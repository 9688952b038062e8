// Which files a program may leave: the patterns that a request asks for, kept in this browser.

const KEY = "streamer.patterns";
const MOST = 32; // the service takes no more

/** What programs of people leave to be looked at. */
export const USUAL = Object.freeze(
  ["png", "jpg", "jpeg", "gif", "webp", "svg", "pdf", "csv", "html", "wav", "zip"].map(
    (ending) => `**/*.${ending}`,
  ),
);

/** Read patterns from text, one a line; an empty text means none. */
export const patternsIn = (text) =>
  [...new Set(text.split("\n").map((line) => line.trim()))].filter((line) => line !== "").slice(0, MOST);

/** The patterns to ask for. */
export function wanted() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY));
    return Array.isArray(kept) ? kept.filter((one) => typeof one === "string") : [...USUAL];
  } catch {
    return [...USUAL]; // no storage here
  }
}

export const areUsual = (patterns) => patterns.join("\n") === USUAL.join("\n");

/** Ask for these from now on. */
export function want(patterns) {
  try {
    if (areUsual(patterns)) {
      localStorage.removeItem(KEY);
    } else {
      localStorage.setItem(KEY, JSON.stringify(patterns));
    }
  } catch {
    // Without storage the usual ones are asked for again after a reload.
  }
}
