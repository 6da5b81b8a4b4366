// BullMQ, measured like the other systems: `node bullmq.js ROW --events N
// --url URL [--rate R]` prints one JSON object. Finished jobs are removed
// (`removeOnComplete`), which makes it a quarter faster than its default.
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { Worker as Pacer, isMainThread, parentPort, workerData } from 'node:worker_threads';
import { Queue, Worker } from 'bullmq';

const QUEUE = 'todos';
const NAME = 'todos.created';
const PATIENCE = 180_000;

const [row, ...words] = process.argv.slice(2);
const args = { events: 10_000, rate: 500, callers: 64, concurrency: 100, url: '' };
for (let i = 0; i < words.length; i += 2) {
  const name = words[i].slice(2);
  args[name] = name === 'url' || name === 'file' ? words[i + 1] : Number(words[i + 1]);
}

const { hostname, port } = new URL(args.url);
const connection = { host: hostname, port: Number(port), maxRetriesPerRequest: null };

const nowUs = () => Math.round((performance.timeOrigin + performance.now()) * 1000);
const pad = (number, width) => String(number).padStart(width, '0');

// 162 bytes of JSON; the id begins with the planned time of the publish.
const todo = (number, plannedUs = nowUs()) => ({
  id: `${pad(plannedUs, 16)}-${pad(number, 19)}`,
  title: 'Write the report',
  description: 'For the meeting',
  assignee: 'ada',
  priority: 'high',
  dueDate: '2026-12-04',
});

const options = { removeOnComplete: true };

function openQueue() {
  return new Queue(QUEUE, { connection });
}

function rate(events, startMs) {
  const seconds = (performance.now() - startMs) / 1000;
  return { events, seconds, perSecond: events / seconds };
}

async function publish(callers) {
  const queue = openQueue();
  await queue.waitUntilReady();
  let next = 0;
  const start = performance.now();
  const caller = async () => {
    while (next < args.events) await queue.add(NAME, todo(next++), options);
  };
  await Promise.all(Array.from({ length: callers }, caller));
  return rate(args.events, start);
}

async function publishBulk() {
  const queue = openQueue();
  await queue.waitUntilReady();
  const start = performance.now();
  let next = 0;
  const caller = async () => {
    while (next < args.events) {
      const from = next;
      next += 500;
      const size = Math.min(500, args.events - from);
      const job = (_, i) => ({ name: NAME, data: todo(from + i), opts: options });
      await queue.addBulk(Array.from({ length: size }, job));
    }
  };
  await Promise.all(Array.from({ length: 4 }, caller));
  return rate(args.events, start);
}

// Runs a worker until every event is handled and acknowledged.
async function work(handler, ready) {
  const worker = new Worker(QUEUE, handler, {
    connection,
    concurrency: args.concurrency,
    autorun: false,
  });
  await worker.waitUntilReady();
  ready();
  await new Promise((resolve, reject) => {
    let done = 0;
    setTimeout(() => reject(new Error(`only ${done} jobs were done`)), PATIENCE).unref();
    // Emitted after the acknowledgement.
    worker.on('completed', () => ++done === args.events && resolve());
    worker.on('error', reject);
    worker.run().catch(reject);
  });
}

async function drain() {
  let start;
  await work(async (job) => void job.data.id, () => (start = performance.now()));
  return rate(args.events, start);
}

async function latencyWorker() {
  const ages = [];
  const handler = async (job) => void ages.push(nowUs() - Number(job.data.id.slice(0, 16)));
  await work(handler, () => console.log('ready'));
  ages.sort((a, b) => a - b);
  const at = (share) => Math.max(0, ages[Math.max(Math.ceil(share * ages.length), 1) - 1]);
  return {
    events: ages.length,
    p50Us: at(0.5),
    p99Us: at(0.99),
    p999Us: at(0.999),
    maxUs: at(1),
  };
}

// Publishes at planned times, independent of the responses. Timers of Node have a
// resolution of 1 ms, so a separate thread keeps the time.
async function openLoop(queue) {
  const answers = [];
  const pacer = new Pacer(fileURLToPath(import.meta.url), {
    workerData: { rate: args.rate, events: args.events },
    argv: process.argv.slice(2),
  });
  await new Promise((resolve, reject) => {
    pacer.on('error', reject);
    pacer.on('message', ([number, planned]) => {
      answers.push(queue.add(NAME, todo(number, planned), options));
      if (number + 1 === args.events) resolve();
    });
  });
  await Promise.all(answers);
}

function pace({ rate, events }) {
  const sleeper = new Int32Array(new SharedArrayBuffer(4));
  const [start, startUs] = [performance.now() + 20, nowUs() + 20_000];
  for (let number = 0; number < events; number += 1) {
    const offset = (number * 1000) / rate;
    const wait = start + offset - performance.now() - 0.08;
    if (wait > 0) Atomics.wait(sleeper, 0, 0, wait);
    while (performance.now() < start + offset);
    parentPort.postMessage([number, startUs + Math.round(offset * 1000)]);
  }
}

async function latency() {
  const queue = openQueue();
  await queue.waitUntilReady();
  const child = spawn(
    process.execPath,
    [fileURLToPath(import.meta.url), 'latency-worker', ...words],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const first = await lines.next();
  if (first.value !== 'ready') throw new Error('the worker did not start');
  await openLoop(queue);
  const result = JSON.parse((await lines.next()).value);
  child.kill();
  return result;
}

const rows = {
  'publish-one': () => publish(1),
  'publish-64': () => publish(args.callers),
  'publish-bulk': publishBulk,
  drain,
  latency,
  'latency-worker': latencyWorker,
};

async function main() {
  if (!rows[row]) throw new Error(`there is no row ${row}`);
  const result = await rows[row]();
  const { user, system } = process.cpuUsage();
  result.cpuSeconds ??= (user + system) / 1e6;
  result.peakMemory ??= process.resourceUsage().maxRSS * 1024;
  console.log(JSON.stringify(result));
  process.exit(0);
}

if (isMainThread) await main();
else pace(workerData);
