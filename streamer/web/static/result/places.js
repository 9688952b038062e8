// Finds places of the program in what a compiler or interpreter says: "main.c:5:3", "line 5".

const LONGEST_LINE = 2000;
const MOST_IN_LINE = 2;
const MOST_IN_RUN = 200; // a program could make any number of buttons
const LONGEST_NAME = 200;
const MENTION = /\bline (\d{1,7})\b|[:(](\d{1,7})\b/g;
const NAME_END = /[\w./-]*$/;

/** Find mentions of lines: [{start, end, file, line}]; `file` is "" where no name is with them. */
export function mentionsIn(text) {
  const found = [];
  for (const match of text.slice(0, LONGEST_LINE).matchAll(MENTION)) {
    const before = text.slice(Math.max(0, match.index - LONGEST_NAME), match.index);
    const spelled = match[1] !== undefined;
    const name = spelled ? nameBefore(before) : NAME_END.exec(before)[0];
    if (!spelled && !isName(name)) {
      continue; // a time, a number in brackets
    }
    const start = spelled ? match.index : match.index - name.length;
    const line = Number(match[1] ?? match[2]);
    found.push({ start, end: match.index + match[0].length, file: name, line });
    if (found.length === MOST_IN_LINE) {
      break;
    }
  }
  return found;
}

const isName = (text) => /\.\w+$/.test(text);

/** The name before "line 5", as in `File "a.py", line 5`, `a.sh: line 5` and `a.php on line 5`. */
function nameBefore(text) {
  const rest = text.replace(/(?:[,:]| on| at)? ?$/, "");
  const quoted = rest.endsWith('"') ? rest.slice(rest.lastIndexOf('"', rest.length - 2) + 1, -1) : "";
  const name = quoted === "" ? NAME_END.exec(rest)[0] : quoted;
  return quoted !== "" || isName(name) ? name : "";
}

const linesIn = ({ content, encoding }) =>
  encoding === "base64" ? Infinity : content.split("\n").length;

/**
 * Return a function that finds the places of a request's program in a line of an error: it returns
 * [{start, end, file, line, go}], where `file` is null for the program's entry and `go()` shows it.
 */
export function placesOf(request, goToLine) {
  const files = (request.files ?? []).map((file) => ({ name: file.name, lines: linesIn(file) }));
  const own = request.code === undefined ? 0 : request.code.split("\n").length;
  let made = 0;

  /** The file that a name means: {name, lines}, or null. */
  const meant = (name) => {
    const listed = files.find((file) => name === file.name || name.endsWith(`/${file.name}`));
    if (listed !== undefined) {
      return listed;
    }
    const isEntry = name === "" || /(^|\/)main\.\w+$/i.test(name);
    return isEntry && own > 0 ? { name: null, lines: own } : null;
  };

  return (text, kind) => {
    if (kind !== "stderr") {
      return [];
    }
    const places = [];
    for (const { start, end, file, line } of mentionsIn(text)) {
      const found = meant(file);
      if (found !== null && line >= 1 && line <= found.lines && made < MOST_IN_RUN) {
        made += 1;
        places.push({ start, end, file: found.name, line, go: () => goToLine(found.name, line) });
      }
    }
    return places;
  };
}
