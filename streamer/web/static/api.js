// Requests to the service. All URLs are relative to the page, so that it works wherever it is
// mounted.

import { keep, recall } from "./tab.js";

/** A refusal (RFC 9457), or no answer at all. */
export class Problem extends Error {
  constructor({ title, detail, code = "", path = "", status = 0 }) {
    super(detail || title);
    this.name = "Problem";
    this.title = title;
    this.code = code;
    this.path = path;
    this.status = status;
  }
}

// One for each place at which a service is mounted.
const remembered = () => `streamer.token:${location.pathname}`;

// The token, if the service needs one; in an embedding application there are its cookies.
let token = recall("token") ?? rememberedToken();

export const hasToken = () => token !== "";

/** Use a token in this tab, and with `remember` in others and later too. */
export function useToken(text, { remember }) {
  token = text;
  keep("token", text);
  try {
    localStorage.removeItem(remembered());
    if (remember) {
      localStorage.setItem(remembered(), text);
    }
  } catch {
    // Storage is turned off: then the tab knows it, or nobody.
  }
}

function rememberedToken() {
  try {
    return localStorage.getItem(remembered()) ?? "";
  } catch {
    return "";
  }
}

/** The languages, and the most that a job may ask for: {runtimes, maxLimits}. */
export const listRuntimes = () => call("GET", "api/runtimes");

export const listSandboxes = async () => (await call("GET", "api/sandboxes")).sandboxes;

/** Submit a job and return its id. */
export const execute = async (request) => (await call("POST", "api/execute", request)).jobId;

// A grant opens one job for reading, and nothing else; where there is one it is what counts.
let granted = { jobId: null, grant: "" };

export function useGrant(jobId, grant) {
  granted = { jobId, grant };
}

const jobPath = (jobId) => `api/jobs/${encodeURIComponent(jobId)}`;

export function readJob(jobId) {
  const mine = granted.jobId === jobId ? { grant: granted.grant } : {};
  return call("GET", withQuery(jobPath(jobId), mine));
}

export const cancelJob = (jobId) => call("DELETE", jobPath(jobId));

/** Send a signal ("SIGINT") to a job's program. */
export const signalJob = (jobId, signal) => call("POST", `${jobPath(jobId)}/signal`, { signal });

/** Send input to a job's program: bytes, of which the first is number `seq`; `close` ends it. */
export function sendInput(jobId, bytes, { seq, close }) {
  const path = withQuery(`${jobPath(jobId)}/stdin`, close ? { seq, close: 1 } : { seq });
  return call("POST", path, bytes);
}

/** Give a job's terminal a size: {cols, rows}. */
export const resizeJob = (jobId, size) => call("POST", `${jobPath(jobId)}/resize`, size);

/** Make a grant for a job: {grant, expiresAt, ...}. */
export const grantJob = (jobId) => call("POST", `${jobPath(jobId)}/grants`, {});

export const isGranted = (jobId) => granted.jobId === jobId;

/** The address of a job's events after the one numbered `lastId`, with what it uses between them. */
export function streamAddress(jobId, lastId) {
  const path = `api/stream/${encodeURIComponent(jobId)}`;
  return readable(jobId, path, { stats: 1, ...(lastId > 0 ? { lastEventId: lastId } : {}) });
}

/** The address of a file that a job has left; with `inline` a browser may show it. */
export function fileAddress(jobId, name, { inline = false } = {}) {
  const path = name.split("/").map(encodeURIComponent).join("/");
  return readable(jobId, `${jobPath(jobId)}/files/${path}`, inline ? { inline: 1 } : {});
}

/** The address of what a job has written so far to a stream, "stdout" or "stderr". */
export const outputAddress = (jobId, stream) =>
  readable(jobId, `${jobPath(jobId)}/output/${stream}`, { follow: 0 });

/** The address of a job's recording for asciinema. */
export const castAddress = (jobId) => readable(jobId, `${jobPath(jobId)}/cast`, {});

/** Read the problem from an answer that is not a success. */
export async function problemOf(response) {
  const title = `The service answered ${response.status} ${response.statusText}`.trim();
  try {
    return new Problem({ title, ...(await response.json()), status: response.status });
  } catch {
    return new Problem({ title, status: response.status }); // a proxy's page, not the service's
  }
}

/** An EventSource, an image and a link can set no headers: the address has what opens the job. */
function readable(jobId, path, parameters) {
  if (granted.jobId === jobId) {
    return withQuery(path, { ...parameters, grant: granted.grant });
  }
  return withQuery(path, token === "" ? parameters : { ...parameters, access_token: token });
}

function withQuery(path, parameters) {
  const query = new URLSearchParams(parameters);
  return query.size > 0 ? `${path}?${query}` : path;
}

async function call(method, address, body) {
  const options = { method, headers: { Accept: "application/json" } };
  if (token !== "") {
    options.headers.Authorization = `Bearer ${token}`;
  }
  if (body instanceof Uint8Array) {
    options.headers["Content-Type"] = "application/octet-stream";
    options.body = body;
  } else if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(address, options);
  } catch {
    throw new Problem({
      title: "No connection",
      detail: "The service cannot be reached. Is it running? Try again in a moment.",
    });
  }
  if (!response.ok) {
    throw await problemOf(response);
  }
  const text = await response.text();
  return text === "" ? null : JSON.parse(text);
}
