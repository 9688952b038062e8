// What is found in the output: places of the program, text, and what is copied of it.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Screen } from "../../streamer/web/static/screen.js";
import { matchesIn, textOf } from "../../streamer/web/static/result/find.js";
import { mentionsIn, placesOf } from "../../streamer/web/static/result/places.js";
import { lineEnds } from "../../streamer/web/static/result/terminal.js";

const WORK = "/work"; // a job's folder in its sandbox

const mentioned = (text) =>
  mentionsIn(text).map(({ start, end, file, line }) => [text.slice(start, end), file, line]);

test("places are found as compilers and interpreters name them", () => {
  for (const [text, ...found] of [
    [`  File "${WORK}/main.py", line 5, in <module>`, ["line 5", `${WORK}/main.py`, 5]],
    ["SyntaxError: bad (main.py, line 12)", ["line 12", "main.py", 12]],
    ["main.c:5:3: error: expected ';'", ["main.c:5", "main.c", 5]],
    [" --> src/main.rs:14:9", ["src/main.rs:14", "src/main.rs", 14]],
    ["./main.go:7:2: undefined: x", ["./main.go:7", "./main.go", 7]],
    ["main.ts(3,5): error TS2304", ["main.ts(3", "main.ts", 3]],
    ["    at Object.<anonymous> (/w/main.js:2:7)", ["/w/main.js:2", "/w/main.js", 2]],
    ["    at Main.main(Main.java:6)", ["Main.java:6", "Main.java", 6]],
    ["main.sh: line 3: nope: command not found", ["line 3", "main.sh", 3]],
    ["PHP Fatal error: x in /w/main.php on line 9", ["line 9", "/w/main.php", 9]],
    ["oops at main.pl line 4.", ["line 4", "main.pl", 4]],
    ["main.rb:8:in `f': boom (RuntimeError)", ["main.rb:8", "main.rb", 8]],
    ["Error in line 6", ["line 6", "", 6]],
    ["at 12:30:05 (3) airline 5x"],
    ["a.c:1 b.c:2 c.c:3", ["a.c:1", "a.c", 1], ["b.c:2", "b.c", 2]],
  ]) {
    assert.deepEqual(mentioned(text), found, text);
  }
});

test("only the program's own lines are places, and never more than some", () => {
  const went = [];
  const files = [{ name: "lib/util.py", content: "a\nb\n" }];
  const find = placesOf({ code: "1\n2\n3", files }, (file, line) => went.push([file, line]));
  const places = (text, kind = "stderr") => find(text, kind).map(({ file, line }) => [file, line]);
  assert.deepEqual(places(`File "${WORK}/main.py", line 2`), [[null, 2]]);
  assert.deepEqual(places(`File "${WORK}/lib/util.py", line 1`), [["lib/util.py", 1]]);
  assert.deepEqual(places('File "/usr/lib/python3/json/decoder.py", line 2'), []);
  assert.deepEqual(places("main.py:4: behind its end, main.py:0"), []);
  assert.deepEqual(places("main.py:1", "stdout"), []);
  find("main.py:3", "stderr")[0].go();
  assert.deepEqual(went, [[null, 3]]);
  let made = 0;
  for (let i = 0; i < 1000; i += 1) {
    made += places("main.py:1 main.py:2 main.py:3").length;
  }
  assert.ok(made > 100 && made <= 200);
});

test("a line that is made to be slow to read is not", () => {
  const began = performance.now();
  for (const text of ["a.".repeat(1000), ":1".repeat(1000), '"line 1'.repeat(300), "(".repeat(2000)]) {
    for (let i = 0; i < 500; i += 1) {
      mentionsIn(text);
    }
  }
  assert.ok(performance.now() - began < 5000);
});

test("text is found in all lines, whatever the case", () => {
  const screen = new Screen({ maxColumns: 12 });
  screen.write("stdout", "Error \x1b[31mERR\x1b[0mor\nİerr\n");
  screen.write("stderr", "errerr");
  const { matches, more } = matchesIn(screen.from(0), "eRr");
  assert.deepEqual(
    matches.map(({ number, start, end }) => [number, start, end]),
    [[0, 0, 3], [0, 6, 9], [1, 1, 4], [2, 0, 3], [2, 3, 6]],
  );
  assert.ok(!more);
  assert.deepEqual(matchesIn(screen.from(0), "").matches, []);
  screen.write("stdout", "x".repeat(3000));
  assert.ok(matchesIn(screen.from(0), "x").more);
});

test("what is copied is what was written", () => {
  const screen = new Screen({ maxColumns: 4 });
  screen.write("stdout", "longer line\n\n\x1b[1mb\x1b[0m");
  screen.note("a note of ours");
  screen.write("stderr", "end\n");
  assert.equal(textOf(screen.from(0)), "longer line\n\nb\nend\n");
});

test("a compiler's lines end as a terminal wants it, a program's as they are", () => {
  assert.equal(lineEnds({ phase: "compile", data: "a\nb\r\n" }), "a\r\nb\r\n");
  assert.equal(lineEnds({ phase: "run", data: "a\nb\r\n" }), "a\nb\r\n");
});
