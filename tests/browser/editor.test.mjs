// The parts of the editor that need no page: a program's files, programs in links, what is kept.

import assert from "node:assert/strict";
import { test } from "node:test";
import { deflateSync } from "node:zlib";

const from = (name) => import(`../../streamer/web/static/editor/${name}.js`);
const { faultIn, Files, filesOf } = await from("files");
const { pack, unpack } = await from("link");
const { withProgram } = await from("kept");

const base64url = (bytes) => Buffer.from(bytes).toString("base64url");

test("one file with the usual name is sent as code, anything else as files", () => {
  const files = filesOf({ code: "1" }, "main.py");
  assert.deepEqual(files.request("main.py"), { code: "1" });
  assert.deepEqual(files.request("main.rb"), {
    files: [{ name: "main.py", content: "1" }],
    entry: "main.py",
  });
  files.add("lib/a.py");
  files.shown.text = "2";
  const both = [
    { name: "main.py", content: "1" },
    { name: "lib/a.py", content: "2" },
  ];
  assert.deepEqual(files.request("main.py"), { files: both });
  files.run(files.shown.id);
  const other = { files: both, entry: "lib/a.py" };
  assert.deepEqual(files.request("main.py"), other);
  assert.deepEqual(filesOf(other, "main.py").request("main.py"), other);
});

test("the neighbour of a removed file takes its place, and the last file stays", () => {
  const files = new Files(["a", "b", "c"].map((name) => ({ name, text: "" })), "c");
  assert.equal(files.shown.name, "c");
  files.remove(files.shown.id);
  assert.deepEqual([files.shown.name, files.entry.name], ["b", "b"]);
  files.remove(files.named("a").id);
  files.remove(files.named("b").id);
  assert.deepEqual(files.all.map(({ name }) => name), ["b"]);
});

test("names that lead elsewhere or clash are refused with a reason", () => {
  for (const name of ["", " ", "/etc/passwd", "../a", "a/../b", "a//b", "a/", "x".repeat(201)]) {
    assert.notEqual(faultIn(name, []), null, name);
  }
  assert.match(faultIn("a.py", ["a.py"]), /a\.py already/);
  assert.match(faultIn("lib", ["lib/a.py"]), /one name/);
  assert.match(faultIn("lib/a.py/b", ["lib/a.py"]), /one name/);
  assert.equal(faultIn("lib/b.py", ["lib/a.py", "library"]), null);
});

test("a program survives its link with all of its settings", async () => {
  const request = {
    language: "python",
    files: [
      { name: "main.py", content: "print('äöü 🎈')\n".repeat(500) },
      { name: "lib.py", content: "" },
    ],
    entry: "lib.py",
    args: ["a b", ""],
    stdin: "\0\r\n",
    environment: "science",
    sandbox: "firejail",
    limits: { wallTimeS: 1.5, memoryBytes: 2 ** 30 },
  };
  const text = await pack(request);
  assert.match(text, /^[\w-]+$/);
  assert.ok(text.length < 600, `${text.length}`);
  assert.deepEqual(await unpack(text), request);
});

test("what is no program of ours opens nothing", async () => {
  const inLink = (value) => unpack(base64url(deflateSync(JSON.stringify(value))));
  const good = { language: "python", code: "" };
  assert.deepEqual(await inLink(good), good);
  // Only these fields come out of a link, whatever else is in it.
  assert.deepEqual(await inLink({ ...good, command: ["sh"], webhook: {}, network: true }), good);
  const bad = [
    null,
    [],
    "text",
    {},
    { language: "python" },
    { code: "1" },
    { ...good, language: 5 },
    { ...good, args: "a" },
    { ...good, args: [5] },
    { ...good, files: [{ name: "a" }] },
    { language: "python", files: [] },
    { ...good, files: Array(201).fill({ name: "a", content: "" }) },
    { ...good, limits: { wallTimeS: "1" } },
    { ...good, limits: [] },
    { ...good, stdin: {} },
  ];
  for (const value of bad) {
    assert.equal(await inLink(value), null, JSON.stringify(value));
  }
  const whole = await pack(good);
  for (const text of ["", "%%%", "AAAA", whole.slice(0, -3), base64url(deflateSync("{"))]) {
    assert.equal(await unpack(text), null, text);
  }
});

test("a link that would inflate to far more is given up", async () => {
  const bomb = deflateSync(Buffer.alloc(200_000_000, 32));
  assert.ok(bomb.length < 1_000_000);
  const before = process.memoryUsage().rss;
  assert.equal(await unpack(base64url(bomb)), null);
  assert.ok(process.memoryUsage().rss - before < 100_000_000);
});

test("the newest program of each language is kept, within a bound", () => {
  const program = (language, size = 1) => ({ language, code: "x".repeat(size) });
  let kept = [];
  for (const [now, language] of ["python", "c", "python", "ruby"].entries()) {
    kept = withProgram(kept, program(language, now + 1), now);
  }
  assert.deepEqual(
    kept.map(({ language, request }) => [language, request.code.length]),
    [["ruby", 4], ["python", 3], ["c", 2]],
  );
  for (let n = 0; n < 20; n += 1) {
    kept = withProgram(kept, program(`language ${n}`, 90_000), n);
  }
  assert.ok(JSON.stringify(kept).length < 600_000);
  assert.equal(kept[0].language, "language 19");
  // One that is too large is not kept, and the page must not show an older one for it.
  kept = withProgram(kept, program("language 19", 100_001), 30);
  assert.ok(kept.every(({ language }) => language !== "language 19"));
});
