// One run at a service of any origin, to its end, over lost connections. It uses fetch and not
// EventSource: a header carries the token, and the request that starts the job is the first stream.

import { readEvents } from "./events.js";

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 15_000;
const TRIES = 4; // to start it: a page that is not allowed gets no answer either, each time
const FINAL = new Set([400, 401, 403, 404, 409, 410, 413]);
const UNREACHED =
  "The service cannot be reached, or does not allow this page (server.allowed_origins).";

export class Run {
  #service;
  #token;
  #on;
  #jobId = null;
  #lastId = 0;
  #over = false;
  #cancelled = false;
  #connection = new AbortController();

  /**
   * `service` is its address with a slash at the end, `token` a text or null. `on` has
   *   event(kind, data)   each event once, in order; the last is "complete" or "error"
   *   state(name)         "reconnecting", between two events
   *   failure(text)       why there is no event any more
   */
  constructor(service, token, on) {
    this.#service = service;
    this.#token = token;
    this.#on = on;
  }

  /** Start a job: the JSON of POST /api/execute. Call it once. */
  async start(request) {
    // A request that is repeated because its answer was lost runs nothing twice.
    const key = Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(36));
    const body = JSON.stringify(request);
    const headers = { "Content-Type": "application/json", "Idempotency-Key": key.join("-") };
    let tries = 0;
    for (let pause = FIRST_PAUSE_MS; !this.#over; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
      const before = this.#lastId;
      if (this.#jobId === null) {
        tries += 1;
        await this.#follow("api/execute", { method: "POST", headers, body }, tries >= TRIES);
      } else {
        const resumed = { "Last-Event-ID": String(this.#lastId) };
        await this.#follow(this.#path("stream"), { headers: resumed }, false);
      }
      if (!this.#over) {
        pause = this.#lastId > before ? FIRST_PAUSE_MS : pause;
        this.#on.state("reconnecting");
        await new Promise((go) => setTimeout(go, pause * (0.75 + Math.random() / 2)));
      }
    }
  }

  /** Ask for its end, which comes as an event. */
  async cancel() {
    this.#cancelled = true;
    if (this.#jobId === null) {
      return; // as soon as it is known
    }
    try {
      await this.#fetch(this.#path("jobs"), { method: "DELETE" });
    } catch {
      // The limits of the service end it.
    }
  }

  /** Read no more. */
  close() {
    this.#over = true;
    if (this.#jobId !== null || !this.#cancelled) {
      this.#connection.abort();
    } // else the answer is still needed, for what is to be cancelled
  }

  #path = (what) => `api/${what}/${encodeURIComponent(this.#jobId)}`;

  #fetch(path, { headers = {}, ...options }) {
    const authorization = this.#token === null ? {} : { Authorization: `Bearer ${this.#token}` };
    return fetch(this.#service + path, {
      ...options,
      headers: { ...headers, ...authorization },
      cache: "no-store",
      credentials: "omit",
      referrerPolicy: "no-referrer",
    });
  }

  async #follow(path, options, last) {
    try {
      const response = await this.#fetch(path, {
        ...options,
        headers: { Accept: "text/event-stream", ...options.headers },
        signal: this.#connection.signal,
      });
      await this.#read(response, last);
    } catch {
      if (last && !this.#over && this.#jobId === null) {
        this.#fail(UNREACHED);
      }
    }
  }

  async #read(response, last) {
    if (!response.ok) {
      if (FINAL.has(response.status) || last) {
        this.#fail(await reasonOf(response));
      }
      return;
    }
    if (response.status === 204) {
      this.#fail("The job is over and has no more to tell.");
      return;
    }
    if (this.#jobId === null) {
      this.#jobId = response.headers.get("X-Job-Id");
      if (this.#cancelled) {
        this.cancel();
      }
      if (this.#over) {
        this.#connection.abort();
        return;
      }
    }
    if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
      await response.body.cancel(); // accepted without a stream: there was no room for one
      return;
    }
    for await (const { id, kind, data } of readEvents(response.body)) {
      if (this.#over) {
        return;
      }
      if (id > this.#lastId) {
        this.#lastId = id;
        this.#over = kind === "complete" || kind === "error";
        this.#on.event(kind, JSON.parse(data));
      }
    }
  }

  #fail(text) {
    if (!this.#over) {
      this.#over = true;
      this.#on.failure(text);
    }
  }
}

async function reasonOf(response) {
  try {
    const { title, detail } = await response.json();
    return detail || title;
  } catch {
    return `The service answered ${response.status}.`; // a proxy's page
  }
}
