/** The client with a real service, over connections that are cut. `STREAMER_URL` is its address. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { ServiceProblem, StreamerClient, type JobEvent } from "../src/index.js";
import { cuttingProxy, type Proxy } from "./proxy.js";

const url = process.env["STREAMER_URL"] ?? assert.fail("STREAMER_URL is not set");
const client = new StreamerClient(url);
const lines = Array.from({ length: 300 }, (_, n) => `${n} \u00e9\u{1f600}\n`).join("");
const paced = `
import sys, time
for n in range(300):
    print(n, "\\u00e9\\U0001f600", flush=True)
    time.sleep(0.002)
`;
let proxy: Proxy;

before(async () => {
  proxy = await cuttingProxy(new URL(url));
});
after(() => proxy.close());

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
}

function text(events: readonly JobEvent[]): string {
  return events.map((event) => (event.kind === "output" ? event.data.data : "")).join("");
}

test("a program is run, and its events are typed by their kind", async () => {
  const events = await all(client.run({ language: "bash", code: "echo hello; exit 3" }));
  assert.deepEqual(events.map((event) => event.id), events.map((_, n) => n + 1));
  assert.equal(text(events), "hello\n");
  const end = events.at(-1);
  assert(end?.kind === "complete");
  assert.equal(end.data.exitCode, 3);
});

test("a stream that is cut goes on by itself, without a gap or a double", async () => {
  const cut = new StreamerClient(proxy.url);
  const events = await all(cut.run({ language: "python", code: paced }));
  assert(proxy.cuts() >= 3, `${proxy.cuts()} cuts`);
  assert.deepEqual(events.map((event) => event.id), events.map((_, n) => n + 1));
  assert.equal(text(events), lines);
});

test("a job is taken up after an event", async () => {
  const jobId = await client.submit({ language: "bash", code: "echo 1" });
  const events = await all(client.follow(jobId));
  for (const { id } of events) {
    assert.deepEqual(await all(client.follow(jobId, { after: id })), events.slice(id));
  }
});

test("a program gets input, once, and a signal", async () => {
  const jobId = await client.submit({ language: "bash", code: "cat", interactive: true });
  await client.write(jobId, "\u00e9\n", { seq: 0 });
  await client.write(jobId, "\u00e9\n", { seq: 0 });
  await client.write(jobId, new Uint8Array([111, 107, 10]), { seq: 3, close: true });
  assert.equal((await client.wait(jobId)).result?.stdout, "\u00e9\nok\n");
  const sleeping = await client.submit({ language: "bash", code: "echo begun; exec sleep 60" });
  for await (const event of client.follow(sleeping)) {
    if (event.kind === "output") await client.signal(sleeping, "SIGTERM");
    if (event.kind === "complete") assert.equal(event.data.signal, "SIGTERM");
  }
});

test("a terminal has a size", async () => {
  const code = "echo ready; read line; stty size";
  const terminal = { cols: 80, rows: 24 };
  const seen: JobEvent[] = [];
  const jobId = await client.submit({ language: "bash", code, terminal });
  for await (const event of client.follow(jobId)) {
    seen.push(event);
    if (event.kind === "output" && text(seen) === "ready\r\n") {
      await client.resize(jobId, 132, 43);
      await client.write(jobId, "\r", { seq: 0 });
    }
  }
  assert.match(text(seen), /43 132/);
});

test("a run that is left is cancelled if that was asked for", async () => {
  let jobId: string | null | undefined;
  const job = { language: "bash", code: "echo begun; sleep 60" };
  for await (const event of client.run(job, { cancelOnClose: true })) {
    if (event.kind === "status") jobId ??= event.data.jobId;
    if (event.kind === "output") break;
  }
  assert(jobId);
  const { result } = await client.wait(jobId);
  assert(result && "reason" in result);
  assert.equal(result.reason, "cancelled");
});

test("following stops by a signal, and the job goes on", async () => {
  const stop = new AbortController();
  const jobId = await client.submit({ language: "bash", code: "echo begun; sleep 60" });
  await assert.rejects(async () => {
    for await (const event of client.follow(jobId, { signal: stop.signal })) {
      if (event.kind === "output") stop.abort(new Error("enough"));
    }
  }, /enough/);
  assert.equal((await client.job(jobId)).status, "running");
  await client.cancel(jobId);
  await client.wait(jobId);
  await client.cancel(jobId); // no effect
  await client.purge(jobId);
  await assert.rejects(client.job(jobId), (error: ServiceProblem) => error.code === "not_found");
});

test("files are listed and read, whole and in part, over cut connections", async () => {
  const code = "mkdir 'a b'; head -c 60000 /dev/zero | tr '\\0' x >'a b/\u00e9?'";
  const jobId = await client.submit({ language: "bash", code, artifacts: ["**/*"] });
  await client.wait(jobId);
  const [file] = await client.files(jobId);
  assert.equal(file?.name, "a b/\u00e9?");
  const through = new StreamerClient(proxy.url, { retries: 50 });
  const pieces = await all(through.readFile(jobId, file.name));
  assert.equal(Buffer.concat(pieces).toString(), "x".repeat(60_000));
  const part = await all(client.readFile(jobId, file.name, { start: 59_990, end: 59_995 }));
  assert.equal(Buffer.concat(part).toString(), "xxxxx");
  assert.throws(() => client.readFile(jobId, "../queue"), RangeError);
});

test("several jobs are submitted at once", async () => {
  const jobs = [{ language: "bash", code: "echo 1" }, { language: "no such" }];
  const [first, second] = await client.batch(jobs);
  assert(typeof first === "string");
  assert(second instanceof ServiceProblem);
  assert.equal(second.path, "$[1].language");
});

test("a refusal says what and where", async () => {
  const refused = client.submit({ language: "bash", code: "", limits: { wallTimeS: -1 } });
  await assert.rejects(refused, (error: ServiceProblem) => {
    assert.deepEqual([error.status, error.code, error.path], [400, "invalid_request", "$.limits.wallTimeS"]);
    return true;
  });
  assert.throws(() => new StreamerClient("file:///tmp"), TypeError);
  assert((await client.runtimes()).some((one) => one.name === "bash"));
  assert((await client.sandboxes()).some((one) => one.default));
  assert((await client.queue()).capacity > 0);
});

test("a server that is no service, or sends without an end, is told", async () => {
  const endless = (piece: string): ReadableStream => {
    const bytes = new TextEncoder().encode(piece.repeat(65_536 / piece.length));
    return new ReadableStream({ pull: (controller) => controller.enqueue(bytes) });
  };
  const answering = (body: BodyInit, status = 200): StreamerClient =>
    new StreamerClient(url, { fetch: () => Promise.resolve(new Response(body, { status })), retries: 0 });
  for (const body of [endless("data: x\n"), endless("x"), "event: output\ndata: {}\n\n", "event: output\ndata: 1\nid: 1\n\n"]) {
    await assert.rejects(all(answering(body).follow("a")), /not from the service/);
  }
  await assert.rejects(answering(endless("x")).queue(), /not from the service/);
  await assert.rejects(answering("<html>").queue(), /not from the service/);
  await assert.rejects(answering("{}").submit({ language: "bash" }), /not from the service/);
  await assert.rejects(answering(endless("x"), 501).queue(), /status 501 without a reason/);
});

test("what is refused for lack of capacity is submitted again with the same key", async () => {
  const keys: (string | null)[] = [];
  const busyOnce: typeof fetch = (input, init) => {
    keys.push(new Headers(init?.headers).get("idempotency-key"));
    if (keys.length > 1) return fetch(input, init);
    const problem = { status: 429, code: "queue_full", detail: "full" };
    return Promise.resolve(Response.json(problem, { status: 429, headers: { "Retry-After": "0" } }));
  };
  const jobId = await new StreamerClient(url, { fetch: busyOnce }).submit({ language: "bash", code: "" });
  await client.wait(jobId);
  assert.equal(keys.length, 2);
  assert.equal(keys[0], keys[1]);
  const later: typeof fetch = () =>
    Promise.resolve(new Response("", { status: 503, headers: { "Retry-After": "61" } }));
  const refused = new StreamerClient(url, { fetch: later }).queue();
  await assert.rejects(refused, (error: ServiceProblem) => error.retryAfter === 61);
});
