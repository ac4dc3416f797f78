import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { KilnError } from '../../src/errors.ts';
import { createPipe } from '../../src/host/calls/descriptor.ts';
import { type QueueOptions, runQueue } from '../../src/host/confine/queue.ts';
import { PATIENCE } from '../support/busybox-state.ts';

const top = mkdtempSync('/tmp/kiln-test-queue-');
test.after.always(() => rmSync(top, { recursive: true }));

const entry = join(import.meta.dirname, 'probe-entry.ts');

let opened = 0;

/** Opens a file of its own that says which one it is. */
function numbered(index: number) {
  const path = join(top, String(opened++));
  writeFileSync(path, `it is ${index}`);
  return { fds: [openSync(path, 'r')], input: index };
}

async function* count(end: number) {
  for (let index = 0; index < end; index++) yield index;
}

type Answers = AsyncGenerator<unknown, void, undefined>;

function start(task: string, more: Partial<QueueOptions<number, unknown>> = {}): Answers {
  return runQueue<number, unknown>({
    ...{ task, input: null, entry, children: 1, ahead: 3, works: count(5), open: numbered },
    name: (index) => `file ${index}`,
    take: (value) => value,
    fail: (error) => error.message,
    ...more,
  });
}

async function all(answers: Answers): Promise<unknown[]> {
  const got: unknown[] = [];
  for await (const answer of answers) got.push(answer);
  return got;
}

test('two children share the work, and a slow one gets less', async (t) => {
  t.timeout(60_000 * PATIENCE);
  const pipe = createPipe(0);
  const open = (index: number) => (index === 0 ? { fds: [pipe.read], input: 0 } : numbered(index));
  const seen: unknown[] = [];
  for await (const answer of start('read', { children: 2, ahead: 1, works: count(200), open })) {
    seen.push(answer);
    // Whoever has the first one, and the next to it, waits until the other has had all the rest.
    if (seen.length === 198) {
      writeSync(pipe.write, 'it is 0');
      closeSync(pipe.write);
    }
  }
  t.deepEqual(
    seen.toSorted((a, b) => (a as [number, string])[0] - (b as [number, string])[0]),
    Array.from({ length: 200 }, (_, index) => [index, `it is ${index}`]),
  );
  t.deepEqual(seen[198], [0, 'it is 0']);
});

test('the time limit of a child is for one piece of work', async (t) => {
  const wait = async function* () {
    for (let index = 0; index < 4; index++) {
      await sleep(index === 0 ? 0 : 1400 * PATIENCE);
      yield index;
    }
    await new Promise(() => undefined);
  };
  const seen: unknown[] = [];
  const limits = { wallMs: 4000 * PATIENCE };
  await t.throwsAsync(
    async () => {
      for await (const one of start('read', { works: wait(), limits })) seen.push(one);
    },
    { code: 'E_CONFINE_TIMEOUT' },
  );
  t.is(seen.length, 4);
});

test('no piece is skipped if the kernel could not pass its descriptor on', async (t) => {
  t.deepEqual(await all(start('full')), [0, 1, 2, 3, 4]);
});

test('a child without work ends by itself', async (t) => {
  t.deepEqual(await all(start('read', { works: count(0), children: 2 })), []);
});

test('a child answers each piece once, and may report progress meanwhile', async (t) => {
  const protocol = { code: 'E_CONFINE_PROTOCOL' };
  await t.throwsAsync(all(start('twice', { works: count(1) })), protocol);
  const silent = 'file 1: a confined child ended before its work did';
  t.deepEqual(await all(start('silent', { ahead: 0 })), [
    'asked',
    silent,
    'asked',
    'asked',
    'asked',
  ]);
  const take = (value: unknown) => {
    if ((value as [number])[0] === 3) throw new TypeError('not that');
    return value;
  };
  const taken = await all(start('read', { take }));
  t.is(taken.length, 5);
  t.regex(String(taken[3]), /^file 3: .* must not/);
  const told: unknown[] = [];
  const onMessage = (value: unknown, index: number) => void told.push([index, value]);
  await all(start('progress', { onMessage }));
  t.deepEqual(
    told,
    [0, 1, 2, 3, 4].map((index) => [index, index]),
  );
});

test('a piece that kills its child fails, and another child does the others', async (t) => {
  const open = (index: number) => {
    if (index === 0) throw new KilnError('E_RPM_FORMAT', 'there is no 0');
    return numbered(index);
  };
  const seen = await all(start('crash', { open }));
  const [died] = seen.splice(2, 1);
  t.regex(String(died), /^file 3: the confined child for 'crash' died \(/);
  t.deepEqual(seen, ['done', 'file 2: not two', 'done', 'there is no 0']);
  t.deepEqual(await all(start('crash', { open, works: count(2) })), ['done', 'there is no 0']);
});

test('every piece that kills its child is named, and no other', async (t) => {
  const limits = { wallMs: 60_000 * PATIENCE };
  const works = async function* () {
    yield* [3, 0, 3, 3, 1, 4, 3];
  };
  const fail = (_error: KilnError, index: number) => `no ${index}`;
  for (const ahead of [0, 3]) {
    const seen = await all(start('crash', { works: works(), open: numbered, ahead, fail, limits }));
    t.deepEqual(seen, ['no 3', 'done', 'no 3', 'no 3', 'done', 'done', 'no 3'], String(ahead));
  }
});

test('a piece that its child has reported on is not tried again', async (t) => {
  const tries: number[] = [];
  const onMessage = (_value: unknown, index: number) => void tries.push(index);
  const seen = await all(
    start('crash-midway', { onMessage, fail: (_error, index) => `no ${index}` }),
  );
  t.deepEqual(seen, [0, 1, 2, 'no 3', 4]);
  t.deepEqual(tries, [0, 1, 2, 3, 4]);
});

test('a child that dies of a piece it has answered takes nothing else with it', async (t) => {
  const seen = await all(start('crash-later', { ahead: 0 }));
  t.deepEqual(seen, [0, 1, 2, 3, 4]);
});

test.serial('pieces that kill children slowly end the queue once they cost too much', async (t) => {
  t.timeout(60_000 * PATIENCE);
  const wallMs = 4000 * PATIENCE;
  const seen: unknown[] = [];
  const open = () => ({ fds: [], input: 0.4 * wallMs });
  await t.throwsAsync(
    async () => {
      for await (const one of start('crash-slowly', { limits: { wallMs }, open })) seen.push(one);
    },
    { code: 'E_CONFINE_DIED', message: /^file [12]: / },
  );
  t.true(seen.length > 0);
});

test('in a group of pieces, only the one that kills its child fails', async (t) => {
  const groups = async function* () {
    yield [0, 1];
    yield [2, 3, 4];
  };
  const answers = runQueue<number[], unknown>({
    ...{ task: 'crash-group', input: null, entry, children: 1, ahead: 3, works: groups() },
    open: (group) => ({ fds: [], input: group }),
    name: (group) => `file ${group.join(' and ')}`,
    take: (value) => value,
    fail: (_error, group) => `no ${group.join(' and ')}`,
    split: (group) => group.map((one) => [one]),
  });
  t.deepEqual(await all(answers), [[0, 1], [2], 'no 3', [4]]);
});

test('a child that dies before it has begun is not blamed on a file', async (t) => {
  await t.throwsAsync(all(start('stillborn')), {
    code: 'E_CONFINE_DIED',
    message: /^the confined child for 'stillborn' died/,
  });
});

test('an error while making the pieces ends the queue and the child', async (t) => {
  const works = async function* () {
    yield 1;
    throw new Error('no more');
  };
  await t.throwsAsync(all(start('read', { works: works() })), { message: 'no more' });
});
