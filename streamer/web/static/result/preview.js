// Fetches the beginning of a file to tell what it is, as the service names it: never by its name.

import { imageSize } from "./imagesize.js";

const HEAD_BYTES = 65_536;
const MOST_PIXELS = 40_000_000; // of one image; decoded, each takes four bytes

/**
 * What a file is: {kind: "image", width, height}, {kind: "text", text, whole}, or {kind: "other"},
 * which is to be downloaded. `address` is the one for previews.
 */
export async function look(address, bytes, fetching = fetch) {
  const response = await fetching(address, { headers: { Range: `bytes=0-${HEAD_BYTES - 1}` } });
  if (!response.ok) {
    await response.body?.cancel();
    return { kind: "other" };
  }
  const type = response.headers.get("Content-Type") ?? "";
  const head = new Uint8Array(await response.arrayBuffer()).subarray(0, HEAD_BYTES);
  if (type.startsWith("image/")) {
    const size = imageSize(head);
    const fits = size !== null && size.width * size.height <= MOST_PIXELS;
    return fits && size.width > 0 && size.height > 0 ? { kind: "image", ...size } : { kind: "other" };
  }
  if (type.startsWith("text/plain")) {
    return { kind: "text", text: new TextDecoder().decode(head), whole: bytes <= head.length };
  }
  return { kind: "other" };
}
