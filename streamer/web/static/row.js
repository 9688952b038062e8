// Makes the elements of a line of output: Text nodes, and spans with classes for their colours.

import { PLAIN, paletteColour } from "./ansi.js";

/** Make the element of one line of a Screen; `placesIn` is as for `OutputView.show`. */
export function rowOf({ kind, runs, wrapped }, placesIn = null) {
  const row = document.createElement("div");
  row.className = `line ${kind}`;
  const places = placesIn === null ? [] : placesIn(runs.map(([text]) => text).join(""), kind);
  let at = 0;
  for (const [text, style] of runs) {
    for (const { from, to, place } of cutAt(places, at, at + text.length)) {
      const part = text.slice(from - at, to - at);
      containerOf(row, place).append(style === PLAIN ? part : spanOf(part, style));
    }
    at += text.length;
  }
  if (!wrapped) {
    row.append("\n"); // an empty line keeps its height, and copied text its line ends
  }
  return row;
}

/** Cut what is between two columns where places begin and end. */
function cutAt(places, start, end) {
  const parts = [];
  let from = start;
  for (const place of places.filter((one) => one.end > start && one.start < end)) {
    if (place.start > from) {
      parts.push({ from, to: place.start, place: null });
    }
    const to = Math.min(place.end, end);
    parts.push({ from: Math.max(place.start, from), to, place });
    from = to;
  }
  if (from < end) {
    parts.push({ from, to: end, place: null });
  }
  return parts;
}

/** What a part of a line goes into: the row, or the button of a place, which may have several. */
function containerOf(row, place) {
  if (place === null) {
    return row;
  }
  if (place.button === undefined) {
    place.button = document.createElement("button");
    place.button.type = "button";
    place.button.className = "place";
    place.button.title = `Go to line ${place.line}`;
    place.button.addEventListener("click", place.go);
    row.append(place.button);
  }
  return place.button;
}

function spanOf(text, style) {
  const span = document.createElement("span");
  span.textContent = text;
  for (const name of ["bold", "dim", "italic", "underline", "strike", "typed"]) {
    span.classList.toggle(name, style[name] === true);
  }
  const { fg, bg, inverse } = style;
  const ground = inverse ? (fg ?? "base") : bg;
  const ink = (inverse ? (bg ?? "base") : fg) ?? inkOn(ground);
  colour(span, "fg", "color", ink);
  colour(span, "bg", "background-color", ground);
  span.classList.toggle("on-ground", ink !== "base" && ground !== null && ground < 16);
  return span;
}

/** The readable one of black and white on a ground that is not the style sheet's, else null. */
function inkOn(ground) {
  if (ground === null || ground === "base" || ground < 16) {
    return null;
  }
  const hex = typeof ground === "number" ? paletteColour(ground) : ground;
  const [red, green, blue] = hex.match(/[\da-f]{2}/g).map((two) => parseInt(two, 16));
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140 ? "#000000" : "#ffffff";
}

/**
 * Give the span a colour of the parser's: a class for what the style sheet knows (the sixteen,
 * and "base", the other of the two plain ones), else a property, which the policy allows.
 */
function colour(span, prefix, property, value) {
  if (value === null) {
    return;
  }
  if (value === "base" || value < 16) {
    span.classList.add(`${prefix}-${value}`);
  } else {
    span.style.setProperty(property, typeof value === "number" ? paletteColour(value) : value);
  }
}
