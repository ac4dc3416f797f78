/** Who only looks at a lock is taken for nobody who keeps it. Each look is held up by strace(1) where it has the lock. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  writeFileSync,
} from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { listJobs, makeJobFolder, writeJob } from '../../src/detached/record.ts';
import { attempt } from '../../src/host/calls/libc.ts';
import { removeTree } from '../../src/host/files/remove-tree.ts';
import { statePaths } from '../../src/host/state/paths.ts';
import { listSandboxes, sandboxFiles } from '../../src/sandbox/domain/sandbox-record.ts';
import { MAIN, PATIENCE } from '../support/busybox-state.ts';

const SRC = join(import.meta.dirname, '../../src');

/** Each flock(2) of the program ends so many milliseconds late, or begins late. */
function held(when: 'delay_exit' | 'delay_enter', late: number, ...args: readonly string[]) {
  const how = ['-f', '-qq', '-e', 'trace=flock', '-e', `inject=flock:${when}=${late}ms`];
  return spawn('strace', [...how, '-o', '/dev/null', process.execPath, ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
}

async function emptyState(t: ExecutionContext) {
  const root = await mkdtemp(join(tmpdir(), 'kiln-looks-'));
  const paths = statePaths({ KILN_STATE: root });
  t.teardown(async () => {
    for (const folder of [root, paths.run]) await removeTree(folder);
  });
  return paths;
}

/** What `look` says while another process runs a program with slow looks. */
async function saidMeanwhile(program: string, look: () => Promise<readonly string[]>) {
  const other = held('delay_exit', 400, '--input-type=module', '-e', program);
  const ended = once(other, 'exit');
  const said = new Set<string>();
  while (other.exitCode === null && other.signalCode === null) {
    for (const word of await look()) said.add(word);
    await sleep(10);
  }
  const [status] = await ended;
  return { status, said: [...said] };
}

test('a lost job counts as lost while others look for jobs to remove', async (t) => {
  const paths = await emptyState(t);
  const { id, folder, lock } = await makeJobFolder(paths);
  const now = Date.now();
  writeJob(folder, { id, command: ['true'], tty: false, created: now, began: now });
  await lock.release();
  const program = `import { removeOldJobs } from '${SRC}/detached/record.ts';
    await removeOldJobs(${JSON.stringify({ root: paths.root })}, undefined);`;
  const states = async () => (await listJobs(paths, undefined)).map(({ state }) => state);
  t.deepEqual(await saidMeanwhile(program, states), { status: 0, said: ['lost'] });
});

test('one of two processes that ask for a name at once gets it', async (t) => {
  const paths = await emptyState(t);
  // A job that goes on: whoever lists jobs looks at its lock.
  const { id, folder, lock } = await makeJobFolder(paths);
  const now = Date.now();
  writeJob(folder, { id, command: ['true'], tty: false, created: now, began: now });
  const job = { name: 'same', command: ['true'], tty: false, rows: 0, columns: 0 };
  const program = `import { DetachedJob } from '${SRC}/detached/job.ts';
    await DetachedJob.make(${JSON.stringify(paths)}, ${JSON.stringify(job)}).then(
      () => console.log('made'), (error) => console.log(error.code));
    process.stdin.resume();`;
  const both = [1, 2].map(() => held('delay_exit', 400, '--input-type=module', '-e', program));
  const said = await Promise.all(
    both.map(async ({ stdout }) => String(await once(stdout, 'data'))),
  );
  for (const one of both) one.stdin.end();
  await Promise.all(both.map((one) => once(one, 'exit')));
  await lock.release();
  t.deepEqual(said.sort(), ['E_JOB_NAME\n', 'made\n']);
});

test('a kept sandbox counts as kept while others look for sandboxes to end', async (t) => {
  const paths = await emptyState(t);
  const directory = join(paths.sandboxes, '0'.repeat(12));
  mkdirSync(directory, { recursive: true });
  const created = Date.now();
  const whose = { id: '0'.repeat(12), domain: 'none', range: {}, skeleton: '' };
  const record = { ...whose, created, keepUntil: created + 3_600_000 };
  writeFileSync(sandboxFiles.record(directory), JSON.stringify(record));
  const program = `import { sweepSandboxes } from '${SRC}/sandbox/domain/sweep.ts';
    import { statePaths } from '${SRC}/host/state/paths.ts';
    await sweepSandboxes(statePaths({ KILN_STATE: '${paths.root}' }), () => Promise.reject(new Error('asked')));`;
  const states = async () =>
    (await listSandboxes(paths, { owner: undefined })).map(({ state }) => state);
  t.deepEqual(await saidMeanwhile(program, states), { status: 0, said: ['kept'] });
});

test('an overdue kept sandbox is expired, and one whose kiln was killed is abandoned', async (t) => {
  const paths = await emptyState(t);
  const created = Date.now() - 10_000;
  const whose = { domain: 'none', range: {}, skeleton: '', created };
  const ids = { expired: '0'.repeat(12), abandoned: '1'.repeat(12), kept: '2'.repeat(12) };
  const times = { expired: created + 1000, abandoned: undefined, kept: created + 3_600_000 };
  for (const [state, keepUntil] of Object.entries(times)) {
    const id = ids[state as keyof typeof ids];
    const directory = join(paths.sandboxes, id);
    mkdirSync(directory, { recursive: true });
    writeFileSync(sandboxFiles.record(directory), JSON.stringify({ ...whose, id, keepUntil }));
  }
  const listed = await listSandboxes(paths, { owner: undefined });
  t.deepEqual(Object.fromEntries(listed.map(({ id, state }) => [state, id])), ids);
  const { stdout } = await execa(process.execPath, [MAIN, 'metrics'], {
    env: { KILN_STATE: paths.root },
  });
  for (const state of Object.keys(ids)) {
    t.true(stdout.includes(`kiln_sandboxes{state="${state}"} 1`), stdout);
  }
});

test('the far end of a command gets a folder, though others remove folders meanwhile', async (t) => {
  // Late: the lock is there, and nobody holds it.
  const far = held('delay_enter', 1500 * PATIENCE, MAIN, 'remote-stdio');
  let said = '';
  far.stdout.on('data', (chunk: Buffer) => {
    said += chunk.toString('latin1');
  });
  // Others on this machine may be the far end of something, too.
  const mine = () => {
    const [child] = readFileSync(`/proc/${far.pid}/task/${far.pid}/children`, 'utf8').split(' ');
    const open = attempt(() => readdirSync(`/proc/${child}/fd`)) ?? [];
    return open
      .map((fd) => attempt(() => readlinkSync(`/proc/${child}/fd/${fd}`)) ?? '')
      .map((path) => /^\/var\/tmp\/(kiln-remote-[^/]+)\//.exec(path)?.[1])
      .find((name) => name !== undefined);
  };
  for (let tries = 0; !existsSync(`/var/tmp/${mine()}/lock`); tries++) {
    t.true(tries < 2000, 'it makes no folder');
    await sleep(10);
  }
  const first = mine()!;
  const other = spawn(process.execPath, [MAIN, 'remote-stdio'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  other.stdin.end();
  other.stdout.resume();
  await once(other, 'exit');
  t.false(existsSync(`/var/tmp/${first}`), 'the other one has not removed it');
  for (let tries = 0; !said.includes('kiln-remote-') && far.exitCode === null; tries++) {
    t.true(tries < 2000);
    await sleep(10);
  }
  const [, place = ''] = /"folder":"([^"]+)"/.exec(said) ?? [];
  t.true(existsSync(join(place, 'in')), said);
  t.is(readFileSync(join(place, 'lock'), 'utf8'), '');
  far.stdin.end();
  await once(far, 'exit');
  t.false(existsSync(place));
});
