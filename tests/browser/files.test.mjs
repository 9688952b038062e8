// What a program leaves and uses: sizes of images, previews, and the lines of the charts.

import assert from "node:assert/strict";
import { test } from "node:test";

import { imageSize } from "../../streamer/web/static/result/imagesize.js";
import { patternsIn, USUAL } from "../../streamer/web/static/result/patterns.js";
import { look } from "../../streamer/web/static/result/preview.js";
import { polyline, Usage } from "../../streamer/web/static/result/usage.js";

const bytes = (...parts) =>
  new Uint8Array(
    parts.flatMap((part) => (typeof part === "string" ? [...Buffer.from(part, "latin1")] : part)),
  );
const png = (width, height) =>
  bytes([0x89], "PNG\r\n\x1a\n", [0, 0, 0, 13], "IHDR", be32(width), be32(height));
const be32 = (n) => [n >>> 24, (n >>> 16) & 255, (n >>> 8) & 255, n & 255];

test("the size of an image is read from its first bytes", () => {
  assert.deepEqual(imageSize(png(640, 480)), { width: 640, height: 480 });
  assert.deepEqual(imageSize(bytes("GIF89a", [10, 1, 20, 0])), { width: 266, height: 20 });
  const jfif = [0xff, 0xe0, 0, 4, 0, 0];
  const sof = [0xff, 0xff, 0xc2, 0, 11, 8, 1, 0, 2, 0];
  assert.deepEqual(imageSize(bytes([0xff, 0xd8], jfif, sof)), { width: 512, height: 256 });
  const riff = ["RIFF", [0, 0, 0, 0], "WEBP"];
  assert.deepEqual(
    imageSize(bytes(...riff, "VP8X", [10, 0, 0, 0, 0, 0, 0, 0, 99, 0, 0, 49, 0, 0])),
    { width: 100, height: 50 },
  );
  assert.deepEqual(imageSize(bytes(...riff, "VP8L", [0, 0, 0, 0, 0x2f, 63, 0xc0, 7, 0])), {
    width: 64,
    height: 32,
  });
  assert.deepEqual(
    imageSize(bytes(...riff, "VP8 ", [0, 0, 0, 0, 0, 0, 0, 0x9d, 1, 0x2a, 32, 0, 16, 0])),
    { width: 32, height: 16 },
  );
});

test("what is no image, or ends too early, has no size", () => {
  const jpeg = [0xff, 0xd8, 0xff, 0xe0, 0xff, 0xff];
  for (const broken of [[], "text", "GIF89a", "RIFF....WEBPVP8X", jpeg, [0xff, 0xd8, 1, 2, 3, 4]]) {
    assert.equal(imageSize(bytes(broken)), null);
  }
  assert.equal(imageSize(png(1, 1).subarray(0, 18)), null);
});

const answering = (type, body, status = 206) => async () =>
  new Response(body, { status, headers: { "Content-Type": type } });

test("the service says what a file is, and what would be too large to decode is not shown", async () => {
  const seen = (type, body, size = 9) => look("", size, answering(type, body));
  assert.deepEqual(await seen("image/png", png(300, 200)), { kind: "image", width: 300, height: 200 });
  for (const [width, height] of [[60_000, 60_000], [0, 5], [4_294_967_295, 1]]) {
    assert.deepEqual(await seen("image/png", png(width, height)), { kind: "other" });
  }
  assert.deepEqual(await seen("application/octet-stream", png(3, 2)), { kind: "other" });
  assert.deepEqual(await seen("text/html", "<b>"), { kind: "other" });
  assert.deepEqual(await seen("text/plain; charset=utf-8", "<b>é"), {
    kind: "text",
    text: "<b>é",
    whole: false,
  });
  assert.equal((await seen("text/plain", "abc", 3)).whole, true);
  assert.deepEqual(await look("", 0, answering("text/plain", "", 416)), { kind: "other" });
});

test("patterns are read one a line, without repetition", () => {
  assert.deepEqual(patternsIn(" out/*.png \n\nlog\r\nlog"), ["out/*.png", "log"]);
  assert.deepEqual(patternsIn("  "), []);
  assert.equal(patternsIn(Array.from({ length: 50 }, (_, n) => `${n}`).join("\n")).length, 32);
  assert.ok(USUAL.includes("**/*.png") && USUAL.length <= 32);
});

test("CPU is what was used from one second to the next", () => {
  const usage = new Usage();
  usage.add({ t: 1100, cpuTimeMs: 500, memoryBytes: 10 }, 100);
  usage.add({ t: 2100, cpuTimeMs: 2500, memoryBytes: 30 });
  usage.add({ t: 2100, cpuTimeMs: 2600, memoryBytes: 30 }); // the same moment again
  usage.add({ t: 3100, cpuTimeMs: null, memoryBytes: null });
  assert.deepEqual(usage.points, [
    { t: 1100, cpu: 0.5, memory: 10 },
    { t: 2100, cpu: 2, memory: 30 },
    { t: 3100, cpu: null, memory: null },
  ]);
  const size = { width: 100, height: 20 };
  assert.equal(polyline(usage.points, ({ cpu }) => cpu, 2, size), "0.0,15.0 50.0,0.0");
  assert.equal(polyline([], ({ cpu }) => cpu, 1, size), "");
});

test("hours of use stay a chart of some points, with the peaks", () => {
  const usage = new Usage();
  for (let second = 1; second <= 7200; second += 1) {
    usage.add({ t: second * 1000, cpuTimeMs: second * 10, memoryBytes: second === 70 ? 99 : 5 });
  }
  assert.ok(usage.points.length <= 240 && usage.points.length > 100);
  assert.equal(Math.max(...usage.points.map(({ memory }) => memory)), 99);
  assert.equal(usage.points.at(-1).t, 7_200_000);
});
