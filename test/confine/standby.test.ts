import {
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { runConfined } from '../../src/confine/run.ts';
import { Standby } from '../../src/confine/standby.ts';
import { readIdentities, standbyReader } from '../../src/rpm/read.ts';
import { buildRpm } from '../rpm/rpm-builder.ts';

const directory = mkdtempSync('/tmp/kiln-test-standby-');
test.after.always(() => rmSync(directory, { recursive: true }));

/** Processes below this one, by /proc. */
function descendants(of = process.pid): number[] {
  const tasks = `/proc/${of}/task`;
  try {
    const direct = readdirSync(tasks).flatMap((task) =>
      readFileSync(`${tasks}/${task}/children`, 'latin1').split(' ').filter(Boolean).map(Number),
    );
    return direct.flatMap((pid) => [pid, ...descendants(pid)]);
  } catch {
    return [];
  }
}

const nodes = () =>
  descendants().filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'latin1').endsWith('rpm-read\0');
    } catch {
      return false;
    }
  });

/** Those that are there once one is. Looked at twice, none may be seen: between two execs it has no name. */
async function awaitNodes(): Promise<number[]> {
  for (;;) {
    const found = nodes();
    if (found.length > 0) return found;
    await sleep(20);
  }
}

async function names(files: readonly string[], standby?: Standby): Promise<string[]> {
  const found: string[] = [];
  for await (const result of readIdentities(files, { standby, concurrency: 1 })) {
    found[result.index] = result.error?.code ?? result.package?.name ?? '';
  }
  return found;
}

test.serial(
  'files that came after the child are read by it, more than go into a batch',
  async (t) => {
    await using standby = standbyReader();
    const waiting = await awaitNodes();
    const [a, b, broken] = ['a', 'b', 'broken'].map((name) => join(directory, `${name}.rpm`));
    writeFileSync(a!, buildRpm({ name: 'first', files: [] }));
    writeFileSync(b!, buildRpm({ name: 'second', files: [] }));
    writeFileSync(broken!, 'no package');
    const files = Array.from({ length: 400 }, () => [b!, broken!]).flat();
    const expected = await names([a!, ...files]);
    t.true(nodes().includes(waiting[0]!), 'without a standby it was another child');
    t.deepEqual(await names([a!, ...files], standby), expected);
    t.deepEqual(expected.slice(0, 3), ['first', 'second', 'E_RPM_FORMAT']);
    t.deepEqual(nodes(), []);
    t.deepEqual(await names([a!], standby), ['first'], 'it is used once');
  },
);

test.serial('a child that nobody needed is gone', async (t) => {
  const standby = standbyReader();
  await awaitNodes();
  await standby[Symbol.asyncDispose]();
  t.deepEqual(nodes(), []);
});

test.serial('it is shut in before it looks at what it is given', async (t) => {
  const entry = join(import.meta.dirname, 'probe-entry.ts');
  await using standby = Standby.start('look', entry);
  const path = join(directory, 'given');
  writeFileSync(path, 'given');
  const fd = openSync(path, 'r');
  const seen: Record<string, unknown>[] = [];
  const validate = (value: unknown) => value as Record<string, unknown>;
  const options = { task: 'look', input: null, entry, fds: [fd], standby, validate };
  for await (const message of runConfined(options)) seen.push(message);
  closeSync(fd);
  const { root, host, proc, program, fds, pid } = seen[0] ?? {};
  t.deepEqual([root, host, proc, fds, pid], [[], 'ENOENT', 'ENOENT', ['given'], 1]);
  t.regex(String(program), /EPERM/);
});
