import { check, notAService, ServiceProblem, textOf } from "./problem.js";

const FIRST_PAUSE_MS = 200;
const MAX_PAUSE_MS = 10_000;
/** As long as three heartbeats: a service that does not answer for longer is not there. */
const ANSWER_MS = 100_000;
/** A longer Retry-After is thrown to the caller instead of waited for. */
export const MAX_RETRY_AFTER_S = 60;
/** With these statuses the service has done nothing, so that repeating the request is safe. */
const REFUSED: ReadonlySet<number> = new Set([429, 503]);
export const TRANSIENT: ReadonlySet<number> = new Set([429, 502, 503, 504]);

export interface Options {
  /** Sent as a bearer token. */
  token?: string;
  /** What another client has made: with it one job can be read without a token. */
  grant?: string;
  /** How often a request is repeated where that helps; 3 by default. */
  retries?: number;
  /** In place of the global `fetch`. */
  fetch?: typeof fetch;
}

export interface Call {
  body?: RequestInit["body"];
  headers?: Record<string, string>;
  query?: Record<string, string>;
  /** Whether repeating the request is safe when there was no answer; true by default. */
  twice?: boolean;
  retries?: number;
  signal?: AbortSignal | undefined;
}

/** Sends requests to one service, and sends them again where that helps. */
export class Connection {
  readonly retries: number;
  readonly #base: URL;
  readonly #headers: Record<string, string>;
  readonly #grant: string | undefined;
  readonly #fetch: typeof fetch;

  constructor(url: string | URL, options: Options) {
    this.#base = new URL(url);
    if (!["http:", "https:"].includes(this.#base.protocol)) {
      throw new TypeError(`${url}: the URL of a service begins with http:// or https://`);
    }
    if (!this.#base.pathname.endsWith("/")) this.#base.pathname += "/";
    this.retries = options.retries ?? 3;
    this.#headers = options.token ? { Authorization: `Bearer ${options.token}` } : {};
    this.#grant = options.grant;
    this.#fetch = options.fetch ?? ((input, init) => fetch(input, init));
  }

  /** Send one request, and return the response once its headers are there; nothing is repeated. */
  async open(method: string, path: string, call: Call = {}): Promise<Response> {
    const url = new URL(path, this.#base);
    if (this.#grant) url.searchParams.set("grant", this.#grant);
    for (const [name, value] of Object.entries(call.query ?? {})) url.searchParams.set(name, value);
    const connecting = new AbortController();
    const timer = setTimeout(() => connecting.abort(new Error("the service does not answer")), ANSWER_MS);
    try {
      const response = await this.#fetch(url, {
        method,
        headers: { ...this.#headers, ...call.headers },
        body: call.body ?? null,
        signal: call.signal ? AbortSignal.any([call.signal, connecting.signal]) : connecting.signal,
      });
      await check(response);
      return response;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Send a request, again if that helps, and return the document that answers it. */
  async call<T>(method: string, path: string, call: Call = {}): Promise<T> {
    const { twice = true, retries = this.retries, signal } = call;
    for (let failures = 0; ; failures++) {
      let asked = 0;
      try {
        const response = await this.open(method, path, call);
        const text = await textOf(response);
        try {
          return (text === "" ? {} : JSON.parse(text)) as T;
        } catch {
          throw notAService(response.status);
        }
      } catch (error) {
        signal?.throwIfAborted();
        if (error instanceof ServiceProblem) {
          asked = error.retryAfter ?? 0;
          const again = (twice ? TRANSIENT : REFUSED).has(error.status);
          // A sandbox that is not there does not come back by itself.
          if (!again || error.code === "sandbox_unavailable" || asked > MAX_RETRY_AFTER_S) throw error;
        } else if (!twice) throw error;
        if (failures >= retries) throw error;
      }
      await pause(failures, asked, signal);
    }
  }
}

/** Wait after this many failures in a row, with jitter, and at least as long as was asked for. */
export async function pause(failures: number, askedS = 0, signal?: AbortSignal): Promise<void> {
  const doubled = Math.min(FIRST_PAUSE_MS * 2 ** failures, MAX_PAUSE_MS);
  const ms = Math.max(askedS * 1000, doubled * (0.5 + Math.random() / 2));
  await new Promise<void>((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(signal?.reason as Error);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    signal?.addEventListener("abort", stop, { once: true });
    if (signal?.aborted) stop();
  });
}
