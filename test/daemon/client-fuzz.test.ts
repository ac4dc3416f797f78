/** The client, compiled with AddressSanitizer and UndefinedBehaviorSanitizer, against a hostile daemon. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { Random } from '../../scripts/fuzzing/random.ts';
import { encodeFrame, TO_CLIENT, TO_DAEMON, u32s } from '../../src/daemon/frames.ts';
import { PATIENCE } from '../support/busybox-state.ts';

const source = join(import.meta.dirname, '../../src/client');
const wire = join(import.meta.dirname, '../../dist/wire');
const folder = mkdtempSync(join(tmpdir(), 'kiln-fuzz-'));
const client = join(folder, 'dist/kiln');
const state = join(folder, 'state');

/** So many connections are made; the campaign is `KILN_TEST_LONG=1`. */
const ROUNDS = process.env.KILN_TEST_LONG === '1' ? 20_000 : 150;

/** Runs the client where it can write nowhere else: a damaged path names any place of the host. */
const CONFINED = [
  '--die-with-parent',
  '--ro-bind',
  '/',
  '/',
  '--bind',
  folder,
  folder,
  '--',
  client,
];

const ANSWER = Buffer.from('{"parameters":{}}\0');
const types = [...Object.values(TO_CLIENT), ...Object.values(TO_DAEMON), 0, 255];

test.before(() => {
  mkdirSync(join(folder, 'dist'));
  mkdirSync(state);
  writeFileSync(join(folder, 'dist/build-id'), 'abc\n');
  const files = readdirSync(source).filter((name) => name.endsWith('.c'));
  const sanitizers = ['-fsanitize=address,undefined', '-fno-sanitize-recover=all'];
  const options = [
    '-std=c17',
    '-D_GNU_SOURCE',
    `-I${wire}`,
    '-g',
    '-O1',
    '-Wall',
    '-Wextra',
    '-Werror',
    ...sanitizers,
  ];
  execFileSync('cc', [...options, '-o', client, ...files], { cwd: source, stdio: 'inherit' });
});

test.after.always(() => rmSync(folder, { recursive: true, force: true }));

function chance(random: Random, probability: number): boolean {
  return random.below(1000) < probability * 1000;
}

function bytes(random: Random, length: number): Buffer {
  return Buffer.from(Array.from({ length }, () => random.below(256)));
}

/** A payload as a frame of the type might have, or any. */
function payload(random: Random, type: number): Buffer {
  if (chance(random, 0.3)) return bytes(random, random.below(64));
  switch (type) {
    case TO_CLIENT.text:
      return Buffer.concat([Buffer.of(random.below(3)), bytes(random, random.below(9000))]);
    case TO_CLIENT.exit:
      return Buffer.concat([Buffer.of(random.below(3)), u32s(random.below(300))]);
    case TO_CLIENT.open: {
      const path = Buffer.from(`${folder}/opened-${random.below(9)}/x`.slice(0, -random.below(3)));
      const end = chance(random, 0.8) ? [0] : [];
      return Buffer.concat([Buffer.of(random.below(5)), path, Buffer.from(end)]);
    }
    default:
      return Buffer.alloc(0);
  }
}

/** What the daemon says in one connection. */
function conversation(random: Random): Buffer {
  const parts: Buffer[] = [chance(random, 0.95) ? ANSWER : bytes(random, random.below(300))];
  for (let frames = random.below(12); frames > 0; frames--) {
    const type = random.pick(types);
    const frame = encodeFrame(
      type,
      payload(random, type),
      chance(random, 0.8) ? 0 : random.below(9),
    );
    if (chance(random, 0.1)) frame.writeUInt32LE(random.below(2 ** 32), 0);
    if (chance(random, 0.1)) frame[random.below(frame.length)] = random.below(256);
    parts.push(frame);
  }
  const all = Buffer.concat(parts);
  return chance(random, 0.2) ? all.subarray(0, random.below(all.length + 1)) : all;
}

/** Writes it in pieces, as a slow daemon does. */
async function say(socket: Socket, bytes: Buffer, random: Random): Promise<void> {
  for (let at = 0; at < bytes.length && !socket.destroyed; ) {
    const size = 1 + random.below(chance(random, 0.5) ? 16 : 20_000);
    socket.write(bytes.subarray(at, at + size));
    at += size;
    if (chance(random, 0.3)) await new Promise((resolve) => setImmediate(resolve));
  }
  socket.end();
}

async function listen(serve: (socket: Socket) => void): Promise<Server> {
  const server = createServer((socket) => {
    socket.on('error', () => undefined).resume();
    serve(socket);
  });
  server.listen(join(state, 'io.kiln'));
  await once(server, 'listening');
  return server;
}

test('no message from a daemon causes undefined behaviour in the client', async (t) => {
  const seed = Number(process.env.KILN_FUZZ_SEED ?? Date.now() % 2 ** 32);
  const random = new Random(seed);
  let connections = 0;
  const server = await listen((socket) => {
    connections++;
    void say(socket, conversation(random), random);
  });
  try {
    for (let round = 0; round < ROUNDS; round++) {
      const child = spawn('bwrap', [...CONFINED, 'run'], {
        env: { KILN_STATE: state, ASAN_OPTIONS: 'detect_leaks=0' },
        stdio: ['ignore', 'ignore', 'pipe'],
      });
      const said: Buffer[] = [];
      child.stderr.on('data', (chunk: Buffer) => said.push(chunk));
      const timer = setTimeout(() => child.kill('SIGKILL'), 20_000 * PATIENCE);
      const [code, signal] = (await once(child, 'close')) as [number | null, string | null];
      clearTimeout(timer);
      const text = Buffer.concat(said).toString('latin1');
      // The status says nothing: a daemon may ask for any. A sanitizer always says what it found.
      const fine = signal === null && !/Sanitizer|runtime error/.test(text);
      if (!fine) t.fail(`seed ${seed}, round ${round}: ${code} ${signal}\n${text.slice(0, 4000)}`);
    }
    t.true(connections >= ROUNDS, `${connections} connections`);
  } finally {
    server.close();
  }
});

test('the tested client is built with the sanitizers', (t) => {
  const symbols = execFileSync('nm', [client], { encoding: 'utf8' });
  t.regex(symbols, /__asan_/);
  t.regex(symbols, /__ubsan_/);
});
