import { EventSourceParserStream, ParseError } from "eventsource-parser/stream";

import { MAX_RETRY_AFTER_S, pause, TRANSIENT, type Connection } from "./connection.js";
import { notAService, ServiceProblem } from "./problem.js";
import { isKind, isLast, type JobEvent } from "./types.js";

/** Three heartbeats: a stream that is silent for longer counts as lost. */
const SILENCE_MS = 100_000;
/** In characters: a longer event is none of the service's. */
const MAX_EVENT = 16 * 1024 * 1024;

export interface Following {
  /** The number of the last event that is known already. */
  after?: number;
  /** Whether to tell once a second what the job uses. */
  stats?: boolean;
  /** Stops following; the job goes on. */
  signal?: AbortSignal;
}

/** Yield the events of a job to the last one; a connection that is lost is made again. */
export async function* follow(
  connection: Connection,
  path: string,
  { after = 0, stats = false, signal }: Following,
): AsyncGenerator<JobEvent, void, undefined> {
  for (let failures = 0; ; failures++) {
    let asked = 0;
    const attempt = new AbortController();
    try {
      const response = await connection.open("GET", path, {
        headers: {
          Accept: "text/event-stream",
          ...(after ? { "Last-Event-ID": String(after) } : {}),
        },
        query: stats ? { stats: "1" } : {},
        signal: signal ? AbortSignal.any([signal, attempt.signal]) : attempt.signal,
      });
      if (response.status === 204 && after) return; // there are none after the last one
      if (response.status !== 200 || response.body === null) throw notAService(response.status);
      for await (const event of events(response.body, after, attempt)) {
        after = event.id;
        failures = 0;
        yield event;
        if (isLast(event)) return;
      }
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof ServiceProblem) {
        if (!TRANSIENT.has(error.status)) throw error;
        asked = Math.min(error.retryAfter ?? 0, MAX_RETRY_AFTER_S);
      }
      // Anything else is a lost connection, and is made again below.
    } finally {
      attempt.abort(); // the connection, where the caller has left
    }
    await pause(failures, asked, signal);
  }
}

async function* events(
  body: ReadableStream<Uint8Array>,
  after: number,
  attempt: AbortController,
): AsyncGenerator<JobEvent, void, undefined> {
  let over = false;
  let timer = setTimeout(() => attempt.abort(), SILENCE_MS);
  const heard = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      clearTimeout(timer);
      if (!over) timer = setTimeout(() => attempt.abort(), SILENCE_MS);
      controller.enqueue(chunk);
    },
  });
  const frames = body
    .pipeThrough(heard)
    .pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>)
    .pipeThrough(new EventSourceParserStream({ maxBufferSize: MAX_EVENT }));
  try {
    for await (const { event: kind = "message", data, id = "" } of frames) {
      if (!isKind(kind)) continue; // a newer service may have further kinds
      // Only an event `stats` has no number of its own.
      const number = id === "" && kind === "stats" ? after : Number(id);
      if ((id === "" && kind !== "stats") || !Number.isSafeInteger(number)) throw notAService(200);
      after = number;
      yield { id: number, kind, data: decoded(data) } as JobEvent;
    }
  } catch (error) {
    throw error instanceof ParseError ? notAService(200) : error;
  } finally {
    over = true; // a chunk may still be on its way
    clearTimeout(timer);
  }
}

function decoded(data: string): object {
  try {
    const value: unknown = JSON.parse(data);
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value;
  } catch {
    // told below
  }
  throw notAService(200);
}
