import { pause, type Connection } from "./connection.js";
import { notAService, ServiceProblem } from "./problem.js";

export interface Part {
  /** The first byte, from 0. */
  start?: number;
  /** The byte after the last one; by default the file's end. */
  end?: number;
  signal?: AbortSignal;
}

/** Yield the bytes of a file, or of a part of it; a lost connection is continued where it broke. */
export async function* readFile(
  connection: Connection,
  path: string,
  { start = 0, end, signal }: Part,
): AsyncGenerator<Uint8Array, void, undefined> {
  if (start < 0 || (end !== undefined && end <= start)) {
    throw new RangeError(`no bytes are from ${start} to ${end}: 0 <= start < end`);
  }
  let at = start;
  let stop: number | undefined;
  let tag: string | null = null;
  for (let failures = 0; at !== stop; failures++) {
    const before = at;
    try {
      const partly = at > 0 || end !== undefined;
      const response = await connection.open("GET", path, {
        headers: {
          "Accept-Encoding": "identity",
          ...(partly ? { Range: `bytes=${at}-${end === undefined ? "" : end - 1}` } : {}),
          ...(tag ? { "If-Range": tag } : {}),
        },
        signal,
      });
      const length = response.headers.get("content-length");
      // Another status: it is not the same file any more.
      if (response.status !== (partly ? 206 : 200) || length === null || response.body === null) {
        throw notAService(response.status);
      }
      stop ??= at + Number(length);
      tag ??= response.headers.get("etag");
      for await (const chunk of response.body as ReadableStream<Uint8Array>) {
        at += chunk.length;
        yield chunk;
      }
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof ServiceProblem) throw error;
      if (at > before) failures = 0;
      if (failures >= connection.retries) throw error;
    }
    if (at !== stop) await pause(failures, 0, signal);
  }
}

/** Return the name of a file as a part of an address. Throws if it would lead elsewhere. */
export function pathOf(name: string): string {
  const parts = name.split("/");
  if (/[\\\0]/.test(name) || parts.some((part) => ["", ".", ".."].includes(part))) {
    throw new RangeError(`${JSON.stringify(name)} is no name of a file`);
  }
  return parts.map(encodeURIComponent).join("/");
}
