// Describes in words how a job ended.

const STOPPED = {
  wall_time: "stopped: time limit of the clock reached",
  cpu_time: "stopped: limit of CPU time reached",
  memory: "stopped: memory limit reached",
  output_limit: "stopped: output limit reached",
  disk: "stopped: disk limit reached",
  cancelled: "cancelled",
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
 * `facts` are [name, value] pairs of text.
 */
export function verdictOf(complete) {
  return { tone: toneOf(complete), text: sentence(complete), facts: facts(complete) };
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

function sentence({ reason, exitCode, signal, phase }) {
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
  const text = Object.hasOwn(STOPPED, reason) ? STOPPED[reason] : `ended: ${reason}`;
  return compiling ? `${text} while compiling` : text;
}

function facts(complete) {
  const known = [
    ["exit code", complete.exitCode],
    ["signal", complete.signal],
    ["duration", time(complete.durationMs)],
    ["CPU", time(complete.cpuTimeMs)],
    ["memory", bytes(complete.peakMemoryBytes)],
    ["output", bytes(complete.outputBytes)],
    ["output cut", complete.outputTruncated ? "yes" : null],
    ["sandbox", complete.sandbox],
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
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}
