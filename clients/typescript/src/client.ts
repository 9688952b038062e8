import { Connection, pause, TRANSIENT, type Options } from "./connection.js";
import { pathOf, readFile, type Part } from "./files.js";
import { notAService, ServiceProblem } from "./problem.js";
import { follow, type Following } from "./stream.js";
import type {
  Accepted,
  Grant,
  Job,
  JobEvent,
  JobFile,
  JobRequest,
  ProblemDocument,
  Project,
  Queue,
  Runtime,
  Sandbox,
} from "./types.js";

const MAX_INPUT_FAILURES = 3;

export interface Submitting {
  /** The same key always means the same job; without one each call makes one new job. */
  idempotencyKey?: string;
  signal?: AbortSignal;
}

export interface Running extends Submitting {
  /** Whether to tell once a second what the job uses. */
  stats?: boolean;
  /** Whether to cancel the job if the loop is left, or `signal` fires, before its end. */
  cancelOnClose?: boolean;
}

/**
 * A streamer service, at the URL where it is mounted.
 *
 * Refusals throw `ServiceProblem`. A request that was refused for lack of capacity, or whose
 * connection was lost, is repeated if that is safe; following a job waits for the service.
 */
export class StreamerClient {
  readonly #connection: Connection;

  constructor(url: string | URL, options: Options = {}) {
    this.#connection = new Connection(url, options);
  }

  /** Submit a job and return its id. */
  async submit(job: JobRequest, { idempotencyKey, signal }: Submitting = {}): Promise<string> {
    const { jobId } = await this.#connection.call<Partial<Accepted>>("POST", "api/execute", {
      body: JSON.stringify(job),
      headers: json(idempotencyKey ?? crypto.randomUUID()),
      signal,
    });
    if (typeof jobId !== "string") throw notAService(202);
    return jobId;
  }

  /** Submit up to 100 jobs at once; return the id of each, or why it was refused, in their order. */
  async batch(
    jobs: readonly JobRequest[],
    { idempotencyKey, signal }: Submitting = {},
  ): Promise<(string | ServiceProblem)[]> {
    type Told = Partial<Accepted> | ProblemDocument;
    const told = await this.#connection.call<Told[]>("POST", "api/execute/batch", {
      body: JSON.stringify(jobs),
      headers: json(idempotencyKey ?? crypto.randomUUID()),
      signal,
    });
    if (!Array.isArray(told) || told.length !== jobs.length) throw notAService(200);
    return told.map((one) => {
      if ("jobId" in one && typeof one.jobId === "string") return one.jobId;
      if (typeof one.status !== "number") throw notAService(200);
      return new ServiceProblem(one.status, one as ProblemDocument);
    });
  }

  /** Submit a job and yield its events, up to and including the last one. */
  async *run(
    job: JobRequest,
    { stats = false, cancelOnClose = false, ...submitting }: Running = {},
  ): AsyncGenerator<JobEvent, void, undefined> {
    const jobId = await this.submit(job, submitting);
    let over = false;
    try {
      const { signal } = submitting;
      yield* this.follow(jobId, { stats, ...(signal ? { signal } : {}) });
      over = true;
    } finally {
      if (cancelOnClose && !over) await this.cancel(jobId).catch(() => undefined);
    }
  }

  /** Yield a job's events after number `after`, then live ones, over lost connections. */
  follow(jobId: string, following: Following = {}): AsyncGenerator<JobEvent, void, undefined> {
    return follow(this.#connection, `api/stream/${encodeURIComponent(jobId)}`, following);
  }

  /** Wait for the end of a job, and return its document, with the result. */
  async wait(jobId: string, signal?: AbortSignal): Promise<Job> {
    for await (const _ of this.follow(jobId, signal ? { signal } : {}));
    return this.job(jobId);
  }

  /** Return the document of a job. */
  job(jobId: string): Promise<Job> {
    return this.#connection.call("GET", jobPath(jobId));
  }

  /** Yield the caller's jobs, newest first, without their output. */
  async *jobs(status?: Job["status"]): AsyncGenerator<Job, void, undefined> {
    let cursor: string | null | undefined;
    do {
      const page: { jobs: Job[]; nextCursor: string | null } = await this.#connection.call(
        "GET",
        "api/jobs",
        { query: { limit: "100", ...(status ? { status } : {}), ...(cursor ? { cursor } : {}) } },
      );
      yield* page.jobs;
      cursor = page.nextCursor;
    } while (cursor);
  }

  /** Ask for the end of a job, without waiting for it; no effect on a job that is over. */
  async cancel(jobId: string): Promise<void> {
    try {
      await this.#connection.call("DELETE", jobPath(jobId));
    } catch (error) {
      if (!(error instanceof ServiceProblem && error.status === 409)) throw error;
    }
  }

  /** Delete all that is kept of a job that is over. */
  async purge(jobId: string): Promise<void> {
    await this.#connection.call("DELETE", jobPath(jobId), { query: { purge: "1" } });
  }

  /**
   * Send bytes, or text, to the standard input of a program, or type them on its terminal.
   *
   * Waits while the program has not read its earlier input. `close` ends the input. `seq` is where
   * the data begins in all input of the job, in bytes: then it is sent again if there was no answer,
   * and the program gets it once.
   */
  async write(
    jobId: string,
    data: string | Uint8Array,
    { close = false, seq }: { close?: boolean; seq?: number } = {},
  ): Promise<void> {
    const query = {
      ...(close ? { close: "1" } : {}),
      ...(seq === undefined ? {} : { seq: String(seq) }),
    };
    let left = seq === undefined ? 0 : this.#connection.retries;
    for (let waits = 0; ; waits++) {
      try {
        const body = typeof data === "string" ? new TextEncoder().encode(data) : data;
        const call = { body: body as BufferSource, query, twice: false, retries: 0 };
        await this.#connection.call("POST", jobPath(jobId, "/stdin"), call);
        return;
      } catch (error) {
        const busy = error instanceof ServiceProblem && error.status === 429;
        const transient = !(error instanceof ServiceProblem) || TRANSIENT.has(error.status);
        if (!busy && (!transient || left-- <= 0)) throw error;
      }
      await pause(Math.min(waits, MAX_INPUT_FAILURES));
    }
  }

  /** Send a signal by name, as `SIGINT`. */
  async signal(jobId: string, signal: string): Promise<void> {
    const call = { body: JSON.stringify({ signal }), twice: false };
    await this.#connection.call("POST", jobPath(jobId, "/signal"), call);
  }

  /** Give the terminal of a job another size, in characters. */
  async resize(jobId: string, cols: number, rows: number): Promise<void> {
    const call = { body: JSON.stringify({ cols, rows }) };
    await this.#connection.call("POST", jobPath(jobId, "/resize"), call);
  }

  /** Make a link with which anybody may read a job until it expires, by default for an hour. */
  grant(jobId: string, wanted: { expiresS?: number; files?: boolean } = {}): Promise<Grant> {
    const call = { body: JSON.stringify(wanted) };
    return this.#connection.call("POST", jobPath(jobId, "/grants"), call);
  }

  /** Return the files that a job has left, of those that it asked for in `artifacts`. */
  async files(jobId: string): Promise<JobFile[]> {
    const path = jobPath(jobId, "/files");
    const { files } = await this.#connection.call<{ files?: JobFile[] }>("GET", path);
    if (!Array.isArray(files)) throw notAService(200);
    return files;
  }

  /** Yield the bytes of one of them, or of a part of it, over lost connections. */
  readFile(jobId: string, name: string, part: Part = {}): AsyncGenerator<Uint8Array, void, undefined> {
    return readFile(this.#connection, jobPath(jobId, `/files/${pathOf(name)}`), part);
  }

  /** Upload a zip, tar, tar.gz or tar.zst archive; its `projectId` is what jobs name. */
  upload(archive: Blob | Uint8Array): Promise<Project> {
    const call = { body: archive as Blob | BufferSource, twice: false };
    return this.#connection.call("POST", "api/projects", call);
  }

  /** How busy the service is. */
  queue(): Promise<Queue> {
    return this.#connection.call("GET", "api/queue");
  }

  /** The languages of the service. */
  async runtimes(): Promise<Runtime[]> {
    return (await this.#connection.call<{ runtimes: Runtime[] }>("GET", "api/runtimes")).runtimes;
  }

  /** The sandboxes of the service. */
  async sandboxes(): Promise<Sandbox[]> {
    return (await this.#connection.call<{ sandboxes: Sandbox[] }>("GET", "api/sandboxes")).sandboxes;
  }
}

function jobPath(jobId: string, rest = ""): string {
  return `api/jobs/${encodeURIComponent(jobId)}${rest}`;
}

function json(idempotencyKey: string): Record<string, string> {
  return { "Content-Type": "application/json", "Idempotency-Key": idempotencyKey };
}
