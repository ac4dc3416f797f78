import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { Handout } from '../../src/confine/handout.ts';
import { mergeIterations } from '../../src/confine/merge.ts';
import { runConfined } from '../../src/confine/run.ts';
import { createPipe } from '../../src/kernel/pipe.ts';
import { takeIdentity } from '../../src/rpm/check.ts';
import { Feed } from '../../src/rpm/feed.ts';
import { buildRpm } from '../rpm/rpm-builder.ts';
import { PATIENCE } from '../support/busybox-state.ts';

const top = mkdtempSync('/tmp/kiln-test-handout-');
test.after.always(() => rmSync(top, { recursive: true }));

interface Seen {
  readonly slow: boolean;
  readonly files: readonly (readonly [number, string])[];
}

const entry = join(import.meta.dirname, 'probe-entry.ts');

function probe(handout: Handout, input: { keep: boolean; slowAt: number }, signal?: AbortSignal) {
  const validate = (value: unknown) => value as Seen;
  return runConfined({ task: 'arrive', input, entry, handout, validate, signal });
}

/**
 * Hands over files with their index in them, the descriptors of which are closed at once. `first` is
 * handed over in place of the first one.
 */
function handNumbers(handout: Handout, groups: number, size: number, first?: number): void {
  const directory = mkdtempSync(join(top, 'files-'));
  for (let group = 0; group < groups; group += 1) {
    const files = Array.from({ length: size }, (_, place) => {
      const index = group * size + place;
      if (index === 0 && first !== undefined) return { index, fd: first };
      const path = join(directory, String(index));
      writeFileSync(path, `it is ${index}`);
      return { index, fd: openSync(path, 'r') };
    });
    handout.hand(files);
    for (const { fd } of files) closeSync(fd);
  }
}

test('two children share what is handed over, and who is slow gets less', async (t) => {
  t.timeout(60_000);
  using handout = new Handout();
  const seen: Seen[] = [];
  const pipe = createPipe(0);
  const both = mergeIterations((signal) =>
    [0, 1].map(() => probe(handout, { keep: false, slowAt: 0 }, signal)),
  );
  const first = both.next();
  handNumbers(handout, 20, 10, pipe.read);
  handout.end();
  for (let step = await first; step.done !== true; step = await both.next()) {
    seen.push(step.value);
    // Whoever has the first group waits until the other child has had all the rest.
    if (seen.length === 19) {
      writeSync(pipe.write, 'it is 0');
      closeSync(pipe.write);
    }
  }
  const files = seen.flatMap((group) => group.files).sort(([a], [b]) => a - b);
  t.deepEqual(
    files,
    Array.from({ length: 200 }, (_, index) => [index, `it is ${index}`]),
  );
  t.true(seen.at(-1)?.slow);
});

test('the time of a child is that from one answer to the next', async (t) => {
  using handout = new Handout();
  const limits = { wallMs: 6000 * PATIENCE };
  const child = runConfined({
    ...{ task: 'arrive', input: { keep: false, slowAt: -1 }, entry, handout, limits },
    validate: (value) => value as Seen,
  });
  const first = child.next();
  let groups = 0;
  for (; groups < 4; groups++) {
    handNumbers(handout, 1, 1);
    const step = await (groups === 0 ? first : child.next());
    t.false(step.done);
    await sleep(2000 * PATIENCE);
  }
  // None comes for too long.
  await t.throwsAsync(child.next(), { code: 'E_CONFINE_TIMEOUT' });
  handout.end();
});

test('a descriptor that the kernel could not pass on ends the child, none is passed over', async (t) => {
  using handout = new Handout();
  const child = probe(handout, { keep: true, slowAt: -1 });
  const first = child.next();
  // The child may have some 160 files open, and keeps them.
  handNumbers(handout, 6, 50);
  handout.end();
  let whole = 0;
  const error = await t.throwsAsync(async () => {
    for (let step = await first; step.done !== true; step = await child.next()) {
      t.is(step.value.files.length, 50);
      whole += 1;
    }
  });
  t.is((error as NodeJS.ErrnoException).code, 'E_CONFINE_PROTOCOL');
  t.true(whole >= 1 && whole <= 3, String(whole));
});

test('a child that nothing is handed to ends with the handout', async (t) => {
  using handout = new Handout();
  handout.end();
  for await (const value of probe(handout, { keep: false, slowAt: -1 })) t.fail(String(value));
  t.pass();
});

test('each file is answered for once, and no other', (t) => {
  using handout = new Handout();
  const path = join(top, 'package.rpm');
  writeFileSync(path, buildRpm({ name: 'one', files: [] }));
  const missing = join(top, 'missing.rpm');
  const feed = new Feed([path, missing, path], handout, 20);
  t.deepEqual(
    feed.more().map(({ index, error }) => [index, error.code]),
    [[1, 'E_RPM_FORMAT']],
  );
  const answer = (index: unknown) => [{ index, error: { code: 'E_X', message: 'no', causes: [] } }];
  t.is(feed.answered(answer(0), takeIdentity)[0]?.error?.message, `${path}: no`);
  for (const index of [0, 1, 3, -1, '2', null, undefined, 2.5]) {
    t.throws(() => feed.answered(answer(index), takeIdentity), { instanceOf: TypeError });
  }
  t.throws(() => feed.answered({ index: 2 }, takeIdentity), { instanceOf: TypeError });
  t.throws(() => feed.answered([{ index: 2, package: {} }], takeIdentity));
});

test('a file that nobody answered for is an error', (t) => {
  using handout = new Handout();
  const path = join(top, 'other.rpm');
  writeFileSync(path, buildRpm({ name: 'one', files: [] }));
  const feed = new Feed([path], handout, 1);
  feed.more();
  t.throws(() => feed.assertDone(), { code: 'E_CONFINE_PROTOCOL' });
});
