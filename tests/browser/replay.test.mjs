// The replay of a run: what is shown when, at which speed, from where.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Player } from "../../streamer/web/static/result/player.js";
import { Recording } from "../../streamer/web/static/result/recording.js";
import { earlier } from "../../streamer/web/static/result/share.js";

const output = (data, t) => ["output", { stream: "stdout", data, t }];

function playing(...events) {
  const recording = new Recording();
  for (const event of events) {
    recording.add(...event);
  }
  const shown = [];
  const stage = {
    clear: () => (shown.length = 0),
    apply: (kind, data) => shown.push(data.data ?? kind),
  };
  const time = { now: 5000 };
  return { player: new Player(recording, stage, () => time.now), shown, time };
}

const RUN = [
  ["status", { state: "queued", t: 0 }],
  ["status", { state: "running", t: 100 }],
  output("a", 100),
  ["typed", { text: "x\n", t: 1100 }],
  output("b", 1100),
  ["truncated", { stream: "stdout" }],
  ["stats", { t: 1500 }],
  output("c", 2100),
];

test("it plays with the pauses of the run, and again from the start", () => {
  const { player, shown, time } = playing(...RUN);
  assert.equal(player.duration, 2000);
  assert.equal(player.at, 2000);
  for (let again = 0; again < 2; again += 1) {
    player.play();
    assert.deepEqual(shown, ["status", "status", "a"]);
    time.now += 999;
    player.tick();
    assert.equal(shown.at(-1), "a");
    time.now += 1;
    player.tick();
    assert.deepEqual(shown.slice(2), ["a", "typed", "b", "truncated"]);
    assert.ok(player.isPlaying);
    time.now += 1_000_000;
    player.tick();
    assert.equal(shown.at(-1), "c");
    assert.ok(!player.isPlaying);
  }
});

test("it pauses, goes on, changes its speed, and goes anywhere", () => {
  const { player, shown, time } = playing(...RUN);
  player.play();
  player.speed = 2;
  time.now += 250;
  player.pause();
  assert.equal(player.at, 500);
  time.now += 10_000;
  player.tick();
  assert.equal(player.at, 500);
  player.seek(1500);
  assert.deepEqual(shown.slice(2), ["a", "typed", "b", "truncated"]);
  player.seek(0);
  assert.deepEqual(shown, ["status", "status", "a"]);
  player.play();
  player.speed = 0.5;
  time.now += 2000;
  player.tick();
  assert.equal(player.at, 1000);
  player.seek(-5);
  assert.equal(player.at, 0);
  player.seek(1e9);
  assert.equal(shown.at(-1), "c");
});

test("what is recorded is bounded, and the newest is kept", () => {
  const recording = new Recording({ mostChars: 10_000, mostEvents: 50 });
  for (let n = 0; n < 1000; n += 1) {
    recording.add(...output("x".repeat(n % 300), n));
  }
  const { events } = recording.between(0, Infinity);
  assert.ok(events.length <= 50);
  assert.equal(events.length + recording.lost, 1000);
  assert.equal(events.at(-1).t, 999);
  assert.equal(recording.duration, 999 - events[0].t);
  assert.deepEqual([new Recording().duration, new Recording().between(0, 9).events], [0, []]);
});

test("a link ends with its grant or with its run, whichever is earlier", () => {
  assert.equal(earlier(null, "2026-01-01"), "2026-01-01");
  assert.equal(earlier("2026-01-02", "2026-01-01"), "2026-01-01");
  assert.equal(earlier("2026-01-01", undefined), "2026-01-01");
  assert.equal(earlier(null, undefined), null);
});
