// The pure parts of the page: what escape sequences mean, and what of the output is kept.
// Run with: node --test tests/browser/  (Node.js 20.19 or newer)

import assert from "node:assert/strict";
import { test } from "node:test";

import { AnsiParser, PLAIN, paletteColour } from "../../streamer/web/static/ansi.js";
import { Screen } from "../../streamer/web/static/screen.js";

/** Everything the parser tells, in order: text with what is not plain about it, and moves. */
function heard(...pieces) {
  const found = [];
  const parser = new AnsiParser();
  const sink = {
    print(text, style) {
      const changed = Object.entries(style).filter(([name, value]) => value !== PLAIN[name]);
      const last = found.at(-1);
      const described = JSON.stringify(Object.fromEntries(changed));
      if (Array.isArray(last) && last[1] === described) {
        last[0] += text;
      } else {
        found.push([text, described]);
      }
    },
    newline: () => found.push("newline"),
    carriageReturn: () => found.push("return"),
    backspace: () => found.push("back"),
    eraseInLine: (mode) => found.push(`erase ${mode}`),
    eraseInDisplay: (mode) => found.push(`clear ${mode}`),
    home: () => found.push("home"),
  };
  for (const piece of pieces) {
    parser.feed(piece, sink);
  }
  return found.map((item) => (Array.isArray(item) ? [item[0], JSON.parse(item[1])] : item));
}

const shown = (screen) =>
  screen.from(0).map(({ kind, runs }) => [kind, runs.map(([text]) => text).join("")]);

test("plain text passes unchanged, markup included", () => {
  assert.deepEqual(heard("<b>a</b> &amp;\té 👍"), [["<b>a</b> &amp;\té 👍", {}]]);
});

test("the sixteen colours, the weights and the ways back", () => {
  for (const [codes, style] of [
    ["31", { fg: 1 }],
    ["97", { fg: 15 }],
    ["44", { bg: 4 }],
    ["103", { bg: 11 }],
    ["1;3;4", { bold: true, italic: true, underline: true }],
    ["2;7;9", { dim: true, inverse: true, strike: true }],
    ["31;0", {}],
    ["31;", {}],
    ["31;41;39;49", {}],
    ["1;2;3;4;7;9;22;23;24;27;29", {}],
    ["4:3", { underline: true }],
    ["4;4:0", {}],
    ["5;8;77;1000", {}],
  ]) {
    assert.deepEqual(heard(`\x1b[${codes}mx`), [["x", style]], codes);
  }
});

test("palette and true colours in every spelling", () => {
  for (const [codes, style] of [
    ["38;5;196", { fg: 196 }],
    ["38:5:196", { fg: 196 }],
    ["48;5;7;1", { bg: 7, bold: true }],
    ["38;2;1;2;255", { fg: "#0102ff" }],
    ["38:2::1:2:255;4", { fg: "#0102ff", underline: true }],
    ["38:2:1:2:255", { fg: "#0102ff" }],
    ["58;5;3;1", { bold: true }],
    ["38;5;256;1", { bold: true }],
    ["38;2;1;2;999;1", { bold: true }],
    ["38;2;1", {}],
    ["38", {}],
  ]) {
    assert.deepEqual(heard(`\x1b[${codes}mx`), [["x", style]], codes);
  }
  assert.equal(paletteColour(16), "#000000");
  assert.equal(paletteColour(196), "#ff0000");
  assert.equal(paletteColour(231), "#ffffff");
  assert.equal(paletteColour(232), "#080808");
  assert.equal(paletteColour(255), "#eeeeee");
});

const SWALLOWED = {
  clipboard: "\x1b]52;c;aGk=\x07",
  "clipboard, ended by ST": "\x1b]52;c;aGk=\x1b\\",
  title: "\x1b]0;gotcha\x07",
  "title in C1": "\x9d0;gotcha\x9c",
  "start of a link": "\x1b]8;;https://example.test/\x1b\\",
  "cursor address": "\x1b[3;4f",
  "another cursor address": "\x1b[3;4H",
  "private mode": "\x1b[?1049h",
  "colour with a private prefix": "\x1b[>4;2m",
  "colour with an intermediate": "\x1b[1 m",
  "device attributes in C1": "\x9bc",
  "device control": "\x1bPq#0;2;0;0;0~-\x07~\x1b\\",
  "application command": "\x1b_payload\x1b\\",
  "privacy message": "\x1b^payload\x1b\\",
  "character set": "\x1b(B",
  reset: "\x1bc",
  bell: "\x07",
  "NUL, DEL and NEL": "\0\x7f\x85",
};

test("other sequences vanish and change nothing, wherever they are cut", () => {
  for (const [name, sequence] of Object.entries(SWALLOWED)) {
    const text = `a${sequence}b`;
    assert.deepEqual(heard(text), [["ab", {}]], name);
    assert.deepEqual(heard(...text), [["ab", {}]], `${name}, one character at a time`);
    for (let cut = 0; cut <= text.length; cut += 1) {
      assert.deepEqual(heard(text.slice(0, cut), text.slice(cut)), [["ab", {}]], `${name} ${cut}`);
    }
  }
});

test("a colour that is cut in two is still a colour", () => {
  assert.deepEqual(heard("\x1b", "[3", "1", "mred"), [["red", { fg: 1 }]]);
});

test("line ends and cursor movements are told", () => {
  assert.deepEqual(heard("a\r\nb\x08\x1b[K\x1b[2K"), [
    ["a", {}],
    "return",
    "newline",
    ["b", {}],
    "back",
    "erase 0",
    "erase 2",
  ]);
});

test("clearing the screen and going home are told", () => {
  assert.deepEqual(heard("\x1b[2J\x1b[H", "\x1b[1", ";1H\x1b[J\x1b[3J\x1b[;H"), [
    "clear 2",
    "home",
    "home",
    "clear 0",
    "clear 3",
    "home",
  ]);
});

test("a screen that is cleared begins anew, but for our own notes", () => {
  const screen = new Screen();
  screen.write("stdout", "one\ntwo");
  screen.note("lost");
  screen.write("stderr", "\x1b[31mbad\n");
  assert.equal(screen.takeChanged(), 0);
  screen.write("stdout", "\x1b[H\x1b[2J\x1b[3Jnew\nnext");
  assert.equal(screen.takeChanged(), 0);
  assert.deepEqual(shown(screen), [["note", "lost"], ["stdout", "new"], ["stdout", "next"]]);
  assert.equal(screen.dropped, 0);
});

test("pictures that are drawn over each other stand in one place", () => {
  const screen = new Screen();
  screen.write("stdout", "\x1b[2J");
  for (const picture of ["###\n#.#\nend", "#..\n...\nEnd"]) {
    screen.write("stdout", `\x1b[H${picture}\n`);
  }
  assert.deepEqual(shown(screen), [["stdout", "#.."], ["stdout", "..."], ["stdout", "End"]]);
  screen.takeChanged();
  screen.write("stdout", "\x1b[HX\nYY");
  assert.equal(screen.takeChanged(), 0);
  screen.write("stderr", "oops\n");
  screen.note("noted");
  screen.write("stdout", "\x1b[H1\n2\n3\n4");
  assert.deepEqual(shown(screen), [
    ["stdout", "1.."],
    ["stdout", "2Y."],
    ["stdout", "3nd"],
    ["stdout", "4"],
    ["note", "noted"],
  ]);
  screen.write("stdout", "\x1b[H\x1b[Jonly");
  assert.deepEqual(shown(screen), [["note", "noted"], ["stdout", "only"]]);
});

test("whoever goes home behind many lines writes on, so that nothing is written over", () => {
  const screen = new Screen();
  screen.write("stdout", `${"line\n".repeat(300)}\x1b[Hat the end`);
  assert.equal(screen.from(0).length, 301);
});

test("what is typed stands behind the question", () => {
  const screen = new Screen();
  screen.write("stdout", "name? ");
  screen.echo("Zo\x1b[31me\n");
  screen.write("stdout", "hello Zoe\n");
  screen.echo("more\n");
  screen.write("stdout", "\nend");
  assert.deepEqual(shown(screen), [
    ["stdout", "name? Zo[31me"],
    ["stdout", "hello Zoe"],
    ["typed", "more"],
    ["stdout", ""],
    ["stdout", "end"],
  ]);
  assert.deepEqual(screen.from(0)[0].runs.map(([text, style]) => [text, style.typed === true]), [
    ["name? ", false],
    ["Zo[31me", true],
  ]);
});

test("broken sequences do not take the text after them along", () => {
  assert.deepEqual(heard("\x1b[31\nx"), ["newline"], "as terminals do, the sequence goes on");
  assert.deepEqual(heard("\x1b[31\x18x"), [["x", {}]]);
  assert.deepEqual(heard("\x1b]0;t\x1b[32mx"), [["x", { fg: 2 }]]);
  assert.deepEqual(heard("\x1b[3é"), [["é", {}]]);
  assert.deepEqual(heard(`\x1b[${"1;".repeat(200)}mx`), [["x", {}]]);
  const endless = heard("\x1b]0;", "t".repeat(70_000), "shown");
  assert.ok(endless[0][0].endsWith("shown") && endless[0][0].length < 10_000);
});

test("lines of both streams stand in the order of their arrival", () => {
  const screen = new Screen();
  screen.write("stdout", "one\ntw");
  screen.write("stderr", "oops\n");
  screen.write("stdout", "o\n\nthree");
  assert.deepEqual(shown(screen), [
    ["stdout", "one"],
    ["stdout", "tw"],
    ["stderr", "oops"],
    ["stdout", "o"],
    ["stdout", ""],
    ["stdout", "three"],
  ]);
  assert.ok(screen.isOpen);
});

test("the line end of a line that was broken off makes no empty line", () => {
  const screen = new Screen();
  screen.write("stdout", "a");
  screen.write("stderr", "b\n");
  screen.write("stdout", "\r\nc\n");
  assert.deepEqual(shown(screen), [["stdout", "a"], ["stderr", "b"], ["stdout", "c"]]);
});

test("one stream's escape sequence swallows nothing of the other's", () => {
  const screen = new Screen();
  screen.write("stdout", "\x1b]0;never ended");
  screen.write("stderr", "seen\n");
  screen.write("stdout", "\x07and \x1b[31mred");
  screen.write("stderr", "plain");
  assert.deepEqual(shown(screen), [["stderr", "seen"], ["stdout", "and red"], ["stderr", "plain"]]);
  assert.deepEqual(screen.from(0).at(-1).runs, [["plain", PLAIN]]);
});

test("a progress bar overwrites its line", () => {
  const screen = new Screen();
  screen.write("stderr", "  1%\r 50%");
  screen.write("stderr", "\r100%\x1b[K done");
  assert.deepEqual(shown(screen), [["stderr", "100% done"]]);
  screen.write("stderr", "\rok\x1b[K\n");
  screen.write("stderr", "abc\x08\x08X\n");
  screen.write("stderr", "abc\r\x1b[2Kd\n");
  assert.deepEqual(shown(screen), [["stderr", "ok"], ["stderr", "aXc"], ["stderr", "d"]]);
});

test("a note stands between the lines", () => {
  const screen = new Screen();
  screen.write("stdout", "cut");
  screen.note("the rest is gone");
  assert.deepEqual(shown(screen), [["stdout", "cut"], ["note", "the rest is gone"]]);
  assert.ok(!screen.isOpen);
});

test("only the newest lines are kept, and the numbers go on", () => {
  const screen = new Screen({ maxLines: 10 });
  for (let i = 0; i < 1000; i += 1) {
    screen.write("stdout", `${i}\n`);
    assert.ok(screen.from(0).length <= 10);
  }
  assert.equal(screen.dropped, 990);
  assert.deepEqual(screen.from(995).map(({ number }) => number), [995, 996, 997, 998, 999]);
  assert.deepEqual(shown(screen).at(0), ["stdout", "990"]);
});

test("long lines are cut into several, and their sum is bounded too", () => {
  const screen = new Screen({ maxColumns: 100, maxWeight: 2000 });
  screen.write("stdout", "é👍".repeat(75));
  const [first, second] = screen.from(0);
  assert.equal([...first.runs[0][0]].length, 100);
  assert.ok(first.wrapped && !second.wrapped);
  screen.write("stdout", "x".repeat(100_000));
  assert.ok(screen.from(0).length < 25);
  assert.ok(screen.dropped > 900);
});

test("a flood of everything stays bounded and whole", () => {
  const screen = new Screen();
  let flood = "";
  for (let i = 0; i < 40_000; i += 1) {
    flood += `\x1b[38;5;${i % 256}m${i}\x1b[0m\r${"x".repeat(i % 7)}${i % 3 === 0 ? "\n" : "\x08"}`;
  }
  for (let at = 0; at < flood.length; at += 1009) {
    screen.write(at % 2 === 0 ? "stdout" : "stderr", flood.slice(at, at + 1009));
  }
  const lines = screen.from(0);
  assert.ok(lines.length <= 5001);
  const text = lines.flatMap(({ runs }) => runs.map(([run]) => run)).join("");
  assert.ok(!/[\x00-\x08\x0a-\x1f\x7f-\x9f]/.test(text), "no control character is left");
});
