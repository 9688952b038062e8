// Finds text in the lines of a screen. Letters match whether they are capital or not.

const MOST_MATCHES = 1000;

/** Whether lower case keeps the length of a text: "İ" becomes two letters. */
const lowered = (text) => {
  const lower = text.toLowerCase();
  return lower.length === text.length ? lower : text;
};

/** Return [{number, start, end}] for each place in `lines`, and whether there are more. */
export function matchesIn(lines, wanted) {
  const needle = lowered(wanted);
  const matches = [];
  if (needle === "") {
    return { matches, more: false };
  }
  for (const { number, runs } of lines) {
    const text = lowered(runs.map(([part]) => part).join(""));
    for (let at = text.indexOf(needle); at !== -1; at = text.indexOf(needle, at + needle.length)) {
      if (matches.length === MOST_MATCHES) {
        return { matches, more: true };
      }
      matches.push({ number, start: at, end: at + needle.length });
    }
  }
  return { matches, more: false };
}

/** The text of lines as a program wrote it: without our own notes, long lines in one piece. */
export function textOf(lines) {
  return lines
    .filter(({ kind }) => kind !== "note")
    .map(({ runs, wrapped }) => runs.map(([text]) => text).join("") + (wrapped ? "" : "\n"))
    .join("");
}
