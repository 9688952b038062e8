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

// The token, if the service needs one; in an embedding application there are its cookies.
let token = recall("token") ?? "";

export const hasToken = () => token !== "";

export function useToken(text) {
  token = text;
  keep("token", text);
}

export const listRuntimes = async () => (await call("GET", "api/runtimes")).runtimes;

export const listSandboxes = async () => (await call("GET", "api/sandboxes")).sandboxes;

/** Submit a job and return its id. */
export const execute = async (request) => (await call("POST", "api/execute", request)).jobId;

export const readJob = (jobId) => call("GET", `api/jobs/${encodeURIComponent(jobId)}`);

export const cancelJob = (jobId) => call("DELETE", `api/jobs/${encodeURIComponent(jobId)}`);

/** Send a signal ("SIGINT") to a job's program. */
export const signalJob = (jobId, signal) =>
  call("POST", `api/jobs/${encodeURIComponent(jobId)}/signal`, { signal });

/** The address of a job's events after the one numbered `lastId`. */
export function streamAddress(jobId, lastId) {
  const path = `api/stream/${encodeURIComponent(jobId)}`;
  return withToken(path, lastId > 0 ? { lastEventId: lastId } : {});
}

/** Read the problem from an answer that is not a success. */
export async function problemOf(response) {
  const title = `The service answered ${response.status} ${response.statusText}`.trim();
  try {
    return new Problem({ title, ...(await response.json()), status: response.status });
  } catch {
    return new Problem({ title, status: response.status }); // a proxy's page, not the service's
  }
}

/** An EventSource can set no headers, so there the token is part of the address. */
function withToken(path, parameters) {
  const query = new URLSearchParams(parameters);
  if (token !== "") {
    query.set("access_token", token);
  }
  return query.size > 0 ? `${path}?${query}` : path;
}

async function call(method, address, body) {
  const options = { method, headers: { Accept: "application/json" } };
  if (token !== "") {
    options.headers.Authorization = `Bearer ${token}`;
  }
  if (body !== undefined) {
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
