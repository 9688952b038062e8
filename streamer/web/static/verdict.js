// Describes in words how a job ended.

// Which limit ended a program: its name in words, and in a request with the way to say its value.
const STOPPED = {
  wall_time: ["time limit", "wallTimeS", (s) => seconds(s)],
  cpu_time: ["limit of CPU time", "cpuTimeS", (s) => seconds(s)],
  memory: ["memory limit", "memoryBytes", (n) => bytes(n)],
  output_limit: ["output limit", "outputBytes", (n) => bytes(n)],
  disk: ["disk limit", "diskBytes", (n) => bytes(n)],
};

const SIGNALS = {
  SIGABRT: "aborted itself",
  SIGBUS: "bus error",
  SIGFPE: "arithmetic error",
  SIGILL: "illegal instruction",
  SIGINT: "interrupted",
  SIGKILL: "killed",
  SIGPIPE: "wrote to a closed pipe",
  SIGSEGV: "segmentation fault",
  SIGSYS: "forbidden system call",
  SIGTERM: "asked to end",
  SIGTRAP: "trap",
  SIGXCPU: "CPU time exceeded",
  SIGXFSZ: "file too large",
};

const FAILURES = {
  sandbox_error: "The sandbox could not run the job",
  worker_lost: "The worker that ran the job was lost",
  shutting_down: "The service was shut down",
  internal: "The service failed",
};

/**
 * Describe the `complete` event: {tone, text, facts}. `tone` is "good", "bad" or "stopped", and
 * `facts` are [name, value] pairs of text. Of the job its `limits` may be known, and its `request`.
 */
export function verdictOf(complete, { limits = null, request = null } = {}) {
  const known = facts(complete, limits);
  if (request?.sandbox !== undefined) {
    known.push(["sandbox", complete.sandbox]); // elsewhere there was no choice
  }
  return { tone: toneOf(complete), text: sentence(complete, limits), facts: known };
}

/** Describe the `error` event, in the same form. */
export function failureOf({ code, message }) {
  const text = Object.hasOwn(FAILURES, code) ? FAILURES[code] : "The job could not be run";
  return { tone: "bad", text: `${text}: ${message}`, facts: [] };
}

function toneOf({ reason, exitCode }) {
  if (reason === "exited") {
    return exitCode === 0 ? "good" : "bad";
  }
  return reason === "signaled" ? "bad" : "stopped";
}

function sentence({ reason, exitCode, signal, phase }, limits) {
  const compiling = phase === "compile";
  if (reason === "exited" && exitCode === 0) {
    return "finished";
  }
  if (reason === "exited") {
    return `${compiling ? "did not compile:" : "failed with"} exit code ${exitCode}`;
  }
  if (reason === "signaled") {
    const meaning = Object.hasOwn(SIGNALS, signal) ? ` (${SIGNALS[signal]})` : "";
    return `${compiling ? "the compiler was " : ""}ended by ${signal}${meaning}`;
  }
  const text = stopped(reason, compiling ? null : limits); // a compiler has limits of its own
  return compiling ? `${text} while compiling` : text;
}

function stopped(reason, limits) {
  if (reason === "cancelled") {
    return "cancelled";
  }
  if (!Object.hasOwn(STOPPED, reason)) {
    return `ended: ${reason}`;
  }
  const [name, key, inWords] = STOPPED[reason];
  const value = limits?.[key];
  return `stopped: ${name}${typeof value === "number" ? ` of ${inWords(value)}` : ""} reached`;
}

function facts(complete, limits) {
  const memory = bytes(complete.peakMemoryBytes);
  const most = typeof limits?.memoryBytes === "number" ? ` of ${bytes(limits.memoryBytes)}` : "";
  const known = [
    ["exit code", complete.exitCode],
    ["signal", complete.signal],
    ["duration", time(complete.durationMs)],
    ["CPU", time(complete.cpuTimeMs)],
    ["memory", memory === null ? null : `${memory}${complete.phase === "run" ? most : ""}`],
    ["output", bytes(complete.outputBytes)],
    ["output cut", complete.outputTruncated ? "yes" : null],
  ];
  return known
    .filter(([, value]) => value !== null && value !== undefined)
    .map(([name, value]) => [name, String(value)]);
}

function time(ms) {
  if (ms === null || ms === undefined) {
    return null;
  }
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
}

const seconds = (s) => `${Number(s.toFixed(1))} s`;

/** A size in words, with binary units. */
export function bytes(count) {
  if (count === null || count === undefined) {
    return null;
  }
  const units = ["B", "KiB", "MiB", "GiB"];
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : Number(value.toFixed(1))} ${units[unit]}`;
}
