import type { ProblemDocument } from "./types.js";

/** For the body of a success: a record may hold megabytes of escaped output. */
const MAX_ANSWER_BYTES = 128 * 1024 * 1024;
const MAX_PROBLEM_BYTES = 1024 * 1024;
const NO_REASON = "without a reason; is this the URL of the service?";

/** A request was refused: the service's problem document (RFC 9457). */
export class ServiceProblem extends Error {
  override readonly name = "ServiceProblem";
  /** The HTTP status. */
  readonly status: number;
  /** What is wrong, for programs. */
  readonly code: string;
  /** The place in the request, as `$.limits.wallTimeS`. */
  readonly path: string | undefined;
  /** The seconds of the header Retry-After. */
  readonly retryAfter: number | undefined;

  constructor(status: number, document: Partial<ProblemDocument>, retryAfter?: number) {
    super(document.detail ?? document.title ?? `HTTP status ${status} ${NO_REASON}`);
    this.status = status;
    this.code = document.code ?? "internal";
    this.path = document.path;
    this.retryAfter = retryAfter;
  }
}

/** Return the error for a response that did not come from a streamer service. */
export function notAService(status: number): ServiceProblem {
  return new ServiceProblem(status, {
    detail: "the response is not from the service; is this the URL where it is mounted?",
  });
}

/** Throw `ServiceProblem` unless the response is a success. */
export async function check(response: Response): Promise<void> {
  if (response.status < 400) return;
  throw new ServiceProblem(response.status, await said(response), retryAfter(response.headers));
}

async function said(response: Response): Promise<Partial<ProblemDocument>> {
  try {
    const document: unknown = JSON.parse(await textOf(response, MAX_PROBLEM_BYTES));
    return typeof document === "object" && document !== null ? document : {};
  } catch {
    return {}; // perhaps the page of a proxy
  }
}

/** Return the text of a response that has no more than so many bytes; the server is not trusted. */
export async function textOf(response: Response, most = MAX_ANSWER_BYTES): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  let bytes = 0;
  // Leaving the loop ends the connection.
  for await (const chunk of (response.body ?? []) as AsyncIterable<Uint8Array>) {
    bytes += chunk.length;
    if (bytes > most) throw notAService(response.status);
    text += decoder.decode(chunk, { stream: true });
  }
  return text + decoder.decode();
}

function retryAfter(headers: Headers): number | undefined {
  const text = headers.get("retry-after");
  if (text === null) return undefined;
  if (/^\d+$/.test(text)) return Number(text);
  const at = Date.parse(text); // it may be a date (RFC 9110, 10.2.3)
  return Number.isNaN(at) ? undefined : Math.max(0, (at - Date.now()) / 1000);
}
