// A program in a link: the request for it as JSON, deflated, as base64url. No server is needed.

const MOST_BYTES = 1_000_000;
const MOST_FILES = 200;

const isText = (value) => typeof value === "string";
const isRecord = (value) =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const isFile = (value) =>
  isRecord(value) && isText(value.name) && value.name !== "" && isText(value.content);

/** What a link may hold, by the fields of POST /api/execute. */
const FIELDS = {
  language: isText,
  code: isText,
  files: (value) => Array.isArray(value) && value.length <= MOST_FILES && value.every(isFile),
  entry: isText,
  args: (value) => Array.isArray(value) && value.every(isText),
  stdin: isText,
  environment: isText,
  sandbox: isText,
  limits: (value) => isRecord(value) && Object.values(value).every(Number.isFinite),
};

/** Return what of a request a link may hold, or null if that is no program. */
export function checked(value) {
  if (!isRecord(value)) {
    return null;
  }
  const kept = Object.entries(FIELDS).filter(([name]) => Object.hasOwn(value, name));
  if (!kept.every(([name, fits]) => fits(value[name]))) {
    return null;
  }
  const request = Object.fromEntries(kept.map(([name]) => [name, value[name]]));
  return isText(request.language) && (isText(request.code) || request.files?.length > 0)
    ? request
    : null;
}

/** Pack a request into text that may stand in an address. */
export async function pack(request) {
  const plain = new TextEncoder().encode(JSON.stringify(request));
  const packed = await through(new CompressionStream("deflate"), plain, Infinity);
  let binary = "";
  for (const byte of packed) {
    binary += String.fromCharCode(byte);
  }
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

/** Return the request that was packed, or null if the text is none or too large. */
export async function unpack(text) {
  try {
    const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    const packed = Uint8Array.from(binary, (char) => char.charCodeAt(0));
    const plain = await through(new DecompressionStream("deflate"), packed, MOST_BYTES);
    return checked(JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(plain)));
  } catch {
    return null;
  }
}

async function through(transform, bytes, most) {
  const reader = new Blob([bytes]).stream().pipeThrough(transform).getReader();
  const parts = [];
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) {
      return new Uint8Array(await new Blob(parts).arrayBuffer());
    }
    size += value.length;
    if (size > most) {
      // A few bytes can be deflated from gigabytes.
      await reader.cancel();
      throw new RangeError("too large");
    }
    parts.push(value);
  }
}
