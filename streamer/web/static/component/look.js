// The looks of <streamer-run>. A constructed style sheet: no policy of a page forbids it, as it
// does a style element.

// Each is a variable that a page may set, --streamer-run-NAME, with its values in light and dark.
const COLOURS = {
  ground: ["#fdfdfc", "#0f1416"],
  text: ["#1c2426", "#dde3e4"],
  muted: ["#59666a", "#9fadb1"],
  edge: ["#cfd6d8", "#364145"],
  accent: ["#1f6f78", "#6cc5cf"],
  "on-accent": ["#ffffff", "#0d1517"],
  good: ["#1d6b36", "#7fd499"],
  bad: ["#ae2424", "#ff8f86"],
  stopped: ["#8a5300", "#efb65f"],
};

// The sixteen of a terminal, in light and dark.
const PALETTE = [
  ["#1c2426", "#5c696d"], ["#b3261e", "#ff7b72"], ["#1d7a35", "#6fcf87"], ["#8a6300", "#e0b050"],
  ["#1f56b8", "#7fabff"], ["#8a2b91", "#d99ae0"], ["#0f737d", "#66c8d2"], ["#6c767a", "#cbd3d5"],
  ["#59666a", "#829095"], ["#d03a30", "#ff9a93"], ["#24893f", "#8fe3a5"], ["#9a7000", "#f0c976"],
  ["#2f6be0", "#a3c4ff"], ["#a63cb0", "#e8b9ed"], ["#14818c", "#8fdde5"], ["#3b4548", "#ffffff"],
];

const RULES = `
  :host { display: block; margin: 0.5rem 0 1rem; }
  .bar, .result { color: var(--text); font: 0.9375rem/1.5 system-ui, sans-serif; }
  :host([hidden]), [hidden] { display: none !important; }
  :host([theme="light"]) { color-scheme: light; }
  :host([theme="dark"]) { color-scheme: dark; }
  :host([theme="auto"]) { color-scheme: light dark; }
  * { box-sizing: border-box; }
  .bar { display: flex; flex-wrap: wrap; align-items: center; gap: 0.5rem; min-height: 2.25rem; }
  button {
    min-height: 2rem; padding: 0.25rem 0.75rem; border: 1px solid var(--edge); border-radius: 0.375rem;
    background: var(--ground); color: var(--text); font: inherit; cursor: pointer;
  }
  .run { border-color: var(--accent); background: var(--accent); color: var(--on-accent); font-weight: 600; }
  .run::before { content: "\\25B6\\A0" / ""; font-size: 0.75em; }
  :focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
  .state { min-width: 0; overflow-wrap: anywhere; color: var(--text); }
  .state[data-tone="good"] { color: var(--good); }
  .state[data-tone="bad"] { color: var(--bad); }
  .state[data-tone="stopped"] { color: var(--stopped); }
  .box {
    max-height: var(--streamer-run-height, 20rem); margin-top: 0.25rem; padding: 0.5rem 0; overflow: auto;
    border: 1px solid var(--edge); border-radius: 0.375rem; background: var(--ground);
    font: 0.875rem/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  }
  .list:empty { min-height: 1.5em; }
  .dropped { margin: 0 0.75rem; color: var(--muted); }
  .line { padding: 0 0.75rem; overflow-wrap: anywhere; unicode-bidi: isolate; white-space: pre-wrap; }
  .line.stderr { background: color-mix(in srgb, var(--bad) 7%, transparent); box-shadow: inset 3px 0 var(--bad); }
  .line.note { color: var(--muted); font-family: system-ui, sans-serif; font-style: italic; }
  .bold { font-weight: 700; }
  .dim { opacity: 0.65; }
  .italic { font-style: italic; }
  .underline { text-decoration: underline; }
  .strike { text-decoration: line-through; }
  .underline.strike { text-decoration: underline line-through; }
  .on-ground { color: #ffffff; }
  .on-ground:where(.bg-7, .bg-15) { color: #000000; }
  .fg-base { color: var(--ground); }
  .bg-base { background-color: var(--text); }
`;

let sheet = null;

/** Return the style sheet, the same for all of a page. */
export function look() {
  if (sheet === null) {
    sheet = new CSSStyleSheet();
    sheet.replaceSync(`${variables()}${RULES}${palette()}`);
  }
  return sheet;
}

function variables() {
  const own = Object.entries(COLOURS).map(
    ([name, pair]) => `--${name}: var(--streamer-run-${name}, light-dark(${pair}));`,
  );
  return `:host { ${own.join(" ")} }`;
}

function palette() {
  // On a coloured ground the sixteen are the light ones, whatever the page's own ground is.
  return PALETTE.map(
    ([light, dark], n) => `
      .fg-${n} { color: light-dark(${light}, ${dark}); }
      .bg-${n} { background-color: light-dark(${light}, ${dark}); }
      .on-ground.bg-${n} { background-color: ${n === 7 || n === 15 ? "#d0d5d7" : light}; }
      .on-ground.fg-${n} { color: ${light}; }`,
  ).join("");
}
