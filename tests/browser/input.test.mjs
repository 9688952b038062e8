// What is typed to a program: it arrives once and in order, whatever becomes of the requests.

import assert from "node:assert/strict";
import { test } from "node:test";

import { elapsed, JobTime } from "../../streamer/web/static/result/clock.js";
import { linesOf } from "../../streamer/web/static/result/inputline.js";
import { fitting } from "../../streamer/web/static/result/runs.js";
import { pieceOf, Sender } from "../../streamer/web/static/result/sender.js";

/** The service's side: keeps each byte once by its number, and answers as `answers` says. */
class Program {
  taken = "";
  closed = false;
  requests = 0;
  #answers;

  constructor(...answers) {
    this.#answers = answers;
  }

  post = async (bytes, { seq, close }) => {
    this.requests += 1;
    const answer = this.#answers.shift() ?? "ok";
    if (typeof answer === "number") {
      throw Object.assign(new Error("refused"), { status: answer });
    }
    assert.ok(seq <= this.taken.length, "nothing is left out");
    this.taken += new TextDecoder("latin1").decode(bytes).slice(this.taken.length - seq);
    this.closed ||= close;
    if (answer === "answer lost") {
      throw Object.assign(new Error("no connection"), { status: 0 });
    }
  };
}

const never = () => assert.fail("not closed");

function sending(program, { from = null } = {}) {
  let settle;
  const closed = new Promise((resolve) => (settle = resolve));
  const kept = [];
  const on = { kept: (state) => kept.push(state), closed: settle };
  return { sender: new Sender(program.post, on, from, async () => {}), closed, kept };
}

test("input arrives once and in order over lost answers and busy servers", async () => {
  const program = new Program("answer lost", 429, 503, 0, "ok", "answer lost");
  const { sender, closed } = sending(program);
  for (const text of ["one\n", "two\n", "three\n"]) {
    assert.ok(sender.send(text));
  }
  sender.end();
  assert.ok(!sender.send("after the end"));
  assert.equal(await closed, null);
  assert.equal(program.taken, "one\ntwo\nthree\n");
  assert.ok(program.closed);
});

test("a refusal ends it and is told", async () => {
  const { sender, closed } = sending(new Program(409));
  sender.send("x");
  assert.equal((await closed).status, 409);
  assert.ok(!sender.send("y"));
});

test("after a reload it goes on with what was not acknowledged", async () => {
  const program = new Program("ok", "answer lost");
  const first = sending(program);
  first.sender.send("sent\n");
  first.sender.send("lost\n");
  first.sender.end();
  // The page goes away while the second request has no answer yet.
  const state = first.kept.find(({ next, ending }) => next === 5 && ending) ?? first.kept.at(-1);
  assert.equal(await first.closed, null);
  const again = sending(program, { from: { next: state.next, waiting: "lost\n", ending: true } });
  assert.equal(await again.closed, null);
  assert.equal(program.taken, "sent\nlost\n");
});

test("what is much is sent in pieces that cut no character, and what is too much is refused", async () => {
  assert.equal(pieceOf("a😀", 2), "a");
  assert.equal(pieceOf("a😀", 3), "a😀");
  const program = new Program();
  const { sender, closed } = sending(program);
  assert.ok(sender.send("é".repeat(40_000)));
  assert.ok(!sender.send("x".repeat(1_000_000)));
  sender.end();
  await closed;
  assert.equal(program.taken.length, 80_000);
  assert.equal(program.requests, 3);
});

test("once it is stopped nothing more is sent or told", async () => {
  const program = new Program();
  const sender = new Sender(program.post, { kept() {}, closed: never }, null, async () => {});
  sender.stop();
  assert.ok(!sender.send("x"));
  assert.equal(program.requests, 0);
});

test("pasted lines are sent, and the last part stays to be edited", () => {
  assert.deepEqual(linesOf("1\r\n2\n3"), { whole: ["1", "2"], rest: "3" });
  assert.deepEqual(linesOf("1\r"), { whole: ["1"], rest: "" });
});

test("the clock says how long, of how long", () => {
  assert.equal(elapsed(4.9, 60), "4 s of 60 s");
  assert.equal(elapsed(61, 60), "60 s of 60 s");
  assert.equal(elapsed(125, 600), "2 min 5 s of 10 min");
  assert.equal(elapsed(0.2, null), "0 s");
  const time = new JobTime();
  assert.equal(time.at(99), 0);
  time.heard(100, 5100); // an old event, after a reload
  time.heard(4000, 5200);
  time.heard(4100, 5900); // a late one
  assert.equal(time.at(6200), 5000);
});

test("kept runs stay within their bounds, the newest first", () => {
  const runs = Array.from({ length: 50 }, (_, n) => ({ id: `${n}`, request: { code: "x" } }));
  assert.deepEqual(fitting(runs).map(({ id }) => id), [...Array(20).keys()].map(String));
  const large = { id: "large", request: { code: "x".repeat(2000) }, typed: [] };
  assert.deepEqual(fitting([large, ...runs], 1000), [{ id: "large", request: null, typed: null }]);
  assert.deepEqual(fitting([runs[0], large, runs[1]], 1000), [runs[0]]);
});
