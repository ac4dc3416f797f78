import { execFileSync } from 'node:child_process';
import { closeSync, fstatSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { Budget } from '../../src/artifacts/budget.ts';
import { type CopiedContent, copyContent, ReadFailed } from '../../src/artifacts/content.ts';

const bash = (directory: string, script: string) =>
  execFileSync('bash', ['-euc', script], { cwd: directory }).toString();

function directory(t: ExecutionContext): string {
  const path = mkdtempSync(join(tmpdir(), 'kiln-content-'));
  t.teardown(() => rmSync(path, { recursive: true }));
  return path;
}

interface Copy extends Disposable {
  readonly from: number;
  readonly to: number;
  start(budget: Budget): Promise<CopiedContent>;
}

/** `from` and `to` of a folder, open. */
function openCopy(path: string): Copy {
  const [from, to] = [openSync(join(path, 'from'), 'r'), openSync(join(path, 'to'), 'w')];
  const { size, blocks } = fstatSync(from);
  return {
    from,
    to,
    start: async (budget) => copyContent(from, to, size, blocks, budget),
    [Symbol.dispose]: () => [from, to].forEach(closeSync),
  };
}

const MAKE = {
  'a dense file': 'head -c 9000001 /dev/urandom > from',
  'a file whose holes and data are longer than a piece':
    'for at in 3 17; do head -c 9000001 /dev/urandom | dd of=from bs=1M seek=$at conv=notrunc status=none; done; truncate -s 40M from',
};

for (const [what, make] of Object.entries(MAKE)) {
  test(`${what} is copied`, async (t) => {
    const path = directory(t);
    bash(path, make);
    using copy = openCopy(path);
    const { size, sha256 } = await copy.start(new Budget());
    bash(path, 'cmp from to');
    t.is(sha256, bash(path, 'sha256sum < from').slice(0, 64));
    t.is(size, fstatSync(copy.from).size);
    t.true(fstatSync(copy.to).blocks <= fstatSync(copy.from).blocks + 64);
  });
}

test('aborting a copy at any moment waits for the work in progress', async (t) => {
  const path = directory(t);
  bash(path, 'head -c 60M /dev/urandom > from');
  let ended = 0;
  for (let round = 0; round < 30; round++) {
    using copy = openCopy(path);
    const controller = new AbortController();
    const reason = new Error('enough');
    const copying = copy.start(new Budget({}, controller.signal));
    await sleep(round);
    controller.abort(reason);
    const error = await copying.then(
      () => undefined,
      (failure: unknown) => failure,
    );
    t.true(error === undefined || error === reason, String(error));
    if (error !== undefined) ended++;
  }
  t.true(ended > 0);
});

test('an unreadable source and an unwritable copy are different errors', async (t) => {
  const path = directory(t);
  bash(path, 'head -c 9M /dev/urandom > from');
  using copy = openCopy(path);
  const size = 9 * 2 ** 20;
  // Each is open for the other only.
  const unreadable = async () => copyContent(copy.to, copy.to, size, size, new Budget());
  await t.throwsAsync(unreadable, { instanceOf: ReadFailed });
  const unwritable = async () => copyContent(copy.from, copy.from, size, size, new Budget());
  await t.throwsAsync(unwritable, { code: 'EBADF' });
});
