import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { Ajv2020 } from 'ajv/dist/2020.js';
import test from 'ava';
import { KilnError } from '../../src/errors.ts';
import { ownPath } from '../../src/host/files/held.ts';
import { KILN_VERSION } from '../../src/host/state/paths.ts';
import { digestOf } from '../../src/image/key.ts';
import type { RunRequest } from '../../src/jobs/run/request.ts';
import { resultOfFailure } from '../../src/jobs/run/result.ts';
import { writeResult } from '../../src/report/write.ts';
import { type Result, resultJsonSchema } from '../../src/result/schema.ts';
import { failed, request } from '../support/failed-run.ts';

const top = join(import.meta.dirname, '../..');
const published = readFileSync(join(top, 'docs/result.schema.json'), 'utf8');
const validate = new Ajv2020({ strict: false, validateFormats: false }).compile(
  JSON.parse(published),
);

function temporary(t: { teardown(after: () => void): void }): string {
  const directory = mkdtempSync(join(tmpdir(), 'kiln-result-'));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

test('docs/result.schema.json is the schema in use', (t) => {
  const now = JSON.parse(JSON.stringify(resultJsonSchema()));
  t.deepEqual(JSON.parse(published), now, 'run: npm run write-result-schema');
});

test('the example in docs/result.md is valid, and has every field', (t) => {
  const page = readFileSync(join(top, 'docs/result.md'), 'utf8');
  const example = JSON.parse(/```json\n([^`]*)```/.exec(page)?.[1] ?? '') as Result;
  t.true(validate(example), JSON.stringify(validate.errors));
  t.deepEqual(Object.keys(example).sort(), [...JSON.parse(published).required].sort());
});

test('a failure says what failed, where, why and what to do', (t) => {
  const cause = new Error('no route', { cause: new Error('cable unplugged') });
  const error = new KilnError('E_DOWNLOAD', 'cannot fetch x', { cause, hint: 'try later' });
  const result = failed(error);
  t.true(validate(JSON.parse(JSON.stringify(result))), JSON.stringify(validate.errors));
  t.deepEqual(result.failure, {
    code: 'E_DOWNLOAD',
    message: 'cannot fetch x',
    phase: 'image',
    hint: 'try later',
    causes: ['no route', 'cable unplugged'],
    lastLines: ['the end'],
  });
  t.is(failed(new TypeError('oops')).failure?.code, 'E_INTERNAL');
  t.is(result.durationMs, 12.5);
});

test('values of the environment stay secret', (t) => {
  const text = JSON.stringify(failed(new Error('x')));
  t.false(text.includes('hush'));
  t.true(text.includes('TOKEN'));
});

test('the plan digest differs for other plans, but not for another order or place of results', (t) => {
  const digest = (more: Partial<RunRequest>) =>
    resultOfFailure(
      { request: { ...request, ...more }, exitStatus: 0, renamed: (value) => value },
      { error: new Error('x'), started: new Date(), phases: [], phase: 'plan' },
    ).planDigest;
  t.is(digest({}), digest({ resultDirectory: ownPath('/elsewhere'), caller: { uid: 1, gid: 1 } }));
  t.not(digest({}), digest({ argv: ['make', 'all'] }));
  t.not(digest({}), digest({ env: { TOKEN: 'other' } }));
  t.is(
    digestOf({ a: 1, b: { c: [1, 2], d: null } }),
    digestOf({ b: { d: null, c: [1, 2] }, a: 1 }),
  );
  t.not(digestOf([1, 2]), digestOf([2, 1]));
  const oracle = execFileSync('sha256sum', { input: '{"a":1,"b":2}', encoding: 'utf8' });
  t.is(digestOf({ b: 2, a: 1 }), oracle.slice(0, 64));
});

/** Reads results until it has read the last one; says when it has begun, and how many different ones it has seen. */
const READER = `
  const { readFileSync } = require('node:fs');
  const { parentPort, workerData: { path, last } } = require('node:worker_threads');
  const seen = new Set();
  const read = () => seen.add(JSON.parse(readFileSync(path, 'utf8')).failure.message);
  read();
  parentPort.postMessage('begun');
  while (!seen.has(last)) read();
  parentPort.postMessage(seen.size);
`;

test('readers see either the old or the new result.json, and always a whole one', async (t) => {
  const directory = join(temporary(t), 'new/results');
  const owner = { uid: 4321, gid: 8765 };
  const path = await writeResult(ownPath(directory), failed(new Error('0')), owner);
  t.is(path, join(directory, 'result.json'));
  // In a thread of its own: the writer does not let the event loop turn.
  const reader = new Worker(READER, { eval: true, workerData: { path, last: '300' } });
  await once(reader, 'message');
  // Heard from now on: the last write may be seen before this thread has come to its end.
  const last = once(reader, 'message');
  for (let round = 1; round <= 300; round += 1) {
    await writeResult(ownPath(directory), failed(new Error(String(round))), owner);
  }
  const [seen] = await last;
  t.true(seen > 2, `${seen}`);
  const stats = statSync(path);
  t.deepEqual([stats.uid, stats.gid, stats.mode & 0o7777], [4321, 8765, 0o644]);
  t.deepEqual(readdirSync(directory).sort(), ['report.html', 'result.json']);
});

test('a result that cannot be written gives E_RESULTDIR', async (t) => {
  const writing = writeResult(ownPath('/proc/nowhere'), failed(new Error('x')), { uid: 0, gid: 0 });
  await t.throwsAsync(writing, { code: 'E_RESULTDIR', message: /\/proc\/nowhere/ });
});

test('the version is that of package.json', (t) => {
  t.is(KILN_VERSION, JSON.parse(readFileSync(join(top, 'package.json'), 'utf8')).version);
});
