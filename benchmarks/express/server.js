// The reference of `make bench`: a code runner as one writes it with Express and better-sse.
//   POST /api/execute       202 {jobId}; the job starts once its stream is open, or its output would be lost
//   GET  /api/stream/:jobId the job's events; any number of readers, nothing is kept for a later one
// CONCURRENCY jobs run at a time, each in the command of SANDBOX, a JSON array; {work} in it is the job's folder.
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { createChannel, createSession } from 'better-sse';
import express from 'express';

const concurrency = Number(process.env.CONCURRENCY);
const sandbox = JSON.parse(process.env.SANDBOX);
const languages = {
  python: ['main.py', '/usr/bin/python3'],
  bash: ['main.sh', '/usr/bin/bash'],
};
const timeLimitMs = 60_000;

const waiting = []; // first in, first out
const accepted = new Map(); // job id -> its request, until its stream opens
const readers = new Map(); // job id -> a session, or with FANOUT a channel of many
const fanout = process.env.FANOUT === '1';
let running = 0;

/** Run a program; `output` is called with each piece as it arrives. Resolves with its end. */
async function execute({ language, code }, output) {
  const started = performance.now();
  const [entry, program] = languages[language];
  const folder = await mkdtemp(path.join(os.tmpdir(), 'express-'));
  try {
    await writeFile(path.join(folder, entry), code);
    const argv = [...sandbox.map((word) => word.replaceAll('{work}', folder)), program, entry];
    return await new Promise((resolve, reject) => {
      const child = spawn(argv[0], argv.slice(1), { cwd: folder });
      const timer = setTimeout(() => child.kill('SIGKILL'), timeLimitMs);
      for (const stream of ['stdout', 'stderr']) {
        child[stream].on('data', (chunk) => output({ stream, data: chunk.toString() }));
      }
      child.stdin.on('error', () => {});
      child.stdin.end();
      child.on('error', reject);
      child.on('close', (exitCode, signal) => {
        clearTimeout(timer);
        resolve({ exitCode, signal, durationMs: performance.now() - started });
      });
    });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function send(jobId, event, data) {
  const target = readers.get(jobId);
  if (target === undefined) return; // nobody listens
  if (fanout) target.broadcast(data, event);
  else target.push(data, event);
}

async function run(jobId, job) {
  try {
    send(jobId, 'complete', await execute(job, (data) => send(jobId, 'output', data)));
  } catch (error) {
    send(jobId, 'error', { message: String(error) });
  }
}

function startNext() {
  while (running < concurrency && waiting.length > 0) {
    running++;
    run(...waiting.shift()).finally(() => {
      running--;
      startNext();
    });
  }
}

const app = express();
app.disable('x-powered-by');
app.use(express.json({ limit: '10mb' }));

app.post('/api/execute', (request, response) => {
  const { language, code } = request.body ?? {};
  if (!Object.hasOwn(languages, language) || typeof code !== 'string') {
    response.status(400).json({ error: 'language or code is missing' });
    return;
  }
  const jobId = randomUUID();
  accepted.set(jobId, request.body);
  response.status(202).json({ jobId });
});

app.get('/api/stream/:jobId', async (request, response) => {
  const { jobId } = request.params;
  const session = await createSession(request, response, { keepAlive: 30_000 });
  const target = fanout ? (readers.get(jobId) ?? createChannel()) : session;
  if (fanout) target.register(session);
  readers.set(jobId, target);
  session.once('disconnected', () => {
    if (!fanout || target.sessionCount === 0) readers.delete(jobId);
  });
  const job = accepted.get(jobId);
  if (job !== undefined) {
    accepted.delete(jobId);
    waiting.push([jobId, job]);
    startNext();
  }
});

const server = app.listen(0, '127.0.0.1', () => {
  console.log(`listens on http://127.0.0.1:${server.address().port}`);
});
