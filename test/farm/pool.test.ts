/** A chain on a real pool: HTCondor's daemons, three machines in network namespaces, one killed, one cut off. */
import { chmodSync, mkdtempSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { Pool, type Worker } from '../../scripts/farm/pool.ts';
import { SAME, twentyPackages } from '../../scripts/farm/twenty.ts';
import { removeTree } from '../../src/host/files/remove-tree.ts';
import { sourcePackage } from '../build/source-packages.ts';
import { long } from '../support/long.ts';

/** As long as a chain may take on a busy machine: an image is made four times. */
const PATIENCE = 1_800_000;

/** Name and digest of the payload of every package below a chain's results, by rpm's own word. */
async function payloads(out: string): Promise<string[]> {
  const script =
    'for rpm in "$1"/*/*.rpm; do rpm -qp --qf "%{NEVRA} %{PAYLOADDIGEST}\\n" "$rpm" 2>/dev/null; done';
  const { stdout } = await execa('sh', ['-c', script, 'sh', out]);
  return stdout
    .split('\n')
    .filter((line) => !line.includes('/repository/'))
    .sort();
}

interface Chain {
  readonly exitStatus: number;
  readonly farm?: { readonly workers: Readonly<Record<string, string | null>> };
  readonly members: readonly { readonly name: string; readonly state: string }[];
}

function chainOf(out: string): Chain {
  return JSON.parse(readFileSync(join(out, 'chain.json'), 'utf8'));
}

/** Sandboxes, job folders and files of jobs on a machine. */
async function left(pool: Pool, { name, state }: Worker): Promise<string[]> {
  const env = pool.rootEnvironment(state);
  const { stdout } = await execa(pool.kilnProgram, ['ps', '--json'], { env });
  const listed = JSON.parse(stdout) as { readonly id: string; readonly state: string }[];
  // The daemon of a machine keeps some ready.
  const used = listed.filter((one) => one.state !== 'parked');
  const sandboxes = used.map(({ id, state: how }) => `sandbox ${id}: ${how}`);
  const jobs = readdirSync(join(state, 'jobs')).map((one) => `job ${one}`);
  const execute = readdirSync(join(pool.directory, name, 'execute')).map((one) => `execute ${one}`);
  const clients = (await pool.commands({ name })).filter((command) =>
    /farm step|run-step|condor_exec|condor_starter/.test(command),
  );
  return [...sandboxes, ...jobs, ...execute, ...clients];
}

async function nothingIsLeft(t: ExecutionContext, pool: Pool): Promise<void> {
  for (const worker of pool.workers) {
    let found = await left(pool, worker);
    for (let tries = 0; found.length > 0 && tries < 60; tries++) {
      await sleep(1000);
      found = await left(pool, worker);
    }
    t.deepEqual(found, [], worker.name);
  }
}

long(
  'a chain of twenty has the results of a local one, though a machine dies and one is cut off',
  async (t) => {
    t.timeout(PATIENCE);
    const directory = mkdtempSync(join(tmpdir(), 'kiln-farm-'));
    chmodSync(directory, 0o755);
    const fixtures =
      process.env.KILN_FIXTURES ?? join(import.meta.dirname, '../../.cache/fixtures');
    try {
      await using pool = await Pool.start({ directory, fixtures, workers: 3 });
      const [first, second, third] = pool.workers as [Worker, Worker, Worker];
      const packages: string[] = [];
      for (const spec of twentyPackages())
        packages.push(await sourcePackage(join(pool.home, 'srpms'), spec));
      await execa('chmod', ['-R', 'a+rX', join(pool.home, 'srpms')]);
      const argv = ['build', '--chain', '-r', 'debian-build', ...SAME, '--resultdir'];
      const options = { timeout: PATIENCE };

      // Images first: what is killed in the middle is to be the chain.
      for (const { state } of [first, second, third]) {
        await execa(pool.kilnProgram, ['image', 'build', 'debian-build'], {
          env: pool.rootEnvironment(state),
        });
      }
      const running = pool.kiln([...argv, 'out', '--farm', ...packages], options);
      let said = '';
      running.stderr?.on('data', (chunk: Buffer) => {
        said += chunk.toString();
      });
      const isAt = (worker: Worker) =>
        new RegExp(`building on ${worker.machine}`).test(said.slice(from));
      let from = 0;
      let ended = false;
      running.finally(() => {
        ended = true;
      });
      const until = async (worker: Worker) => {
        from = said.length;
        while (!isAt(worker) && !ended) await sleep(100);
        t.false(ended, said);
      };
      await until(first);
      await pool.kill(first);
      await until(second);
      await pool.cut(second, 'down');
      await sleep(15_000);
      await pool.cut(second, 'up');
      const done = await running;
      t.is(done.exitCode, 0, said);
      const out = join(pool.home, 'out');
      const chain = chainOf(out);
      t.deepEqual(new Set(chain.members.map(({ state }) => state)), new Set(['built']));
      t.is(chain.members.length, 20);
      const workers = new Set(Object.values(chain.farm?.workers ?? {}));
      t.true(workers.has(`${third.machine}.kiln-farm`), [...workers].join());
      const provenance = JSON.parse(readFileSync(join(out, 'p1-1-1/provenance.json'), 'utf8'));
      const { worker } = provenance.predicate.buildDefinition.internalParameters;
      t.is(worker, chain.farm?.workers['p1-1-1']);

      // The same packages as a chain on one machine.
      const local = await pool.kiln([...argv, 'local', ...packages], options);
      t.is(local.exitCode, 0, String(local.stderr));
      const made = await payloads(out);
      t.is(made.length, 60);
      t.deepEqual(made, await payloads(join(pool.home, 'local')));
      t.deepEqual(
        readdirSync(join(out, 'p18-1-1')).sort(),
        readdirSync(join(pool.home, 'local/p18-1-1')).sort(),
      );
      t.deepEqual(
        readdirSync(join(out, 'repository/current'))
          .filter((name) => name.endsWith('.rpm'))
          .sort(),
        readdirSync(join(pool.home, 'local/repository/current'))
          .filter((name) => name.endsWith('.rpm'))
          .sort(),
      );

      // Nothing is left, on the machine that died neither, once it is up again.
      await pool.startKiln(first.state);
      await pool.startWorker(first);
      await nothingIsLeft(t, pool);

      // Again: nothing is built, and nothing submitted.
      const logs = () =>
        chain.members.map(({ name }) => statSync(join(out, name, 'build.log')).mtimeMs);
      const before = logs();
      const queue = () =>
        pool.as(['condor_history', '-af', 'ClusterId']).then(({ stdout }) => stdout);
      const submitted = await queue();
      const again = await pool.kiln([...argv, 'out', '--farm', ...packages], options);
      t.is(again.exitCode, 0, String(again.stderr));
      t.deepEqual(new Set(chainOf(out).members.map(({ state }) => state)), new Set(['unchanged']));
      t.deepEqual(logs(), before);
      t.is(await queue(), submitted);

      // A failure is not tried elsewhere, and what needs it is skipped.
      const bad = await sourcePackage(join(pool.home, 'bad'), { name: 'bad', build: 'exit 7' });
      const needs = await sourcePackage(join(pool.home, 'bad'), {
        name: 'needs',
        buildRequires: ['bad-devel'],
      });
      const slow = await sourcePackage(join(pool.home, 'bad'), {
        name: 'slow',
        build: 'sleep 1000',
      });
      await execa('chmod', ['-R', 'a+rX', join(pool.home, 'bad')]);
      const ci = ['--ci', 'gitlab'];
      const failed = await pool.kiln([...argv, 'failed', '--farm', ...ci, bad, needs], options);
      t.is(failed.exitCode, 1, String(failed.stderr));
      t.deepEqual(
        chainOf(join(pool.home, 'failed')).members.map(({ state }) => state),
        ['failed', 'skipped'],
      );
      t.is(String(failed.stderr).match(/bad-1-1: building on/g)?.length, 1);
      t.regex(
        readFileSync(join(pool.home, 'failed/junit.xml'), 'utf8'),
        /<testsuite name="bad-1-1" tests="\d+" failures="1"/,
      );
      const isBuilding = (front: ReturnType<typeof pool.kiln>) =>
        new Promise<void>((resolve) => {
          front.stderr?.on('data', (chunk: Buffer) => {
            if (/slow-1-1: building on/.test(chunk.toString())) resolve();
          });
          front.finally(resolve);
        });
      const endless = pool.kiln([...argv, 'endless', '--farm', slow], options);
      await isBuilding(endless);
      // Whoever looks on may be gone: the chain is HTCondor's.
      endless.kill('SIGKILL');
      await endless;
      const status = await pool.kiln(['farm', 'status', '--json', 'endless/']);
      const { running: isRunning, members } = JSON.parse(String(status.stdout));
      t.true(isRunning);
      t.is(members[0].state, 'building');
      const log = await pool.kiln(['farm', 'logs', 'endless/', 'slow-1-1']);
      t.regex(String(log.stdout), new RegExp(`^kiln: worker ${members[0].worker}`));
      const busy = await pool.kiln([...argv, 'endless', '--farm', slow], options);
      t.regex(String(busy.stderr), /another chain works in .*endless/);
      const resumed = pool.kiln(['farm', 'resume', 'endless/'], options);
      await isBuilding(resumed);
      const cancelled = await pool.kiln(['farm', 'cancel', 'endless/']);
      t.is(cancelled.exitCode, 0, String(cancelled.stderr));
      t.is((await resumed).exitCode, 130);
      await nothingIsLeft(t, pool);
      const jobs = await pool.as(['condor_q', '-af', 'ClusterId']);
      t.is(jobs.stdout, '');
    } finally {
      await removeTree(directory);
    }
  },
);

long('nothing is built twice when the submitting machine restarts in the middle', async (t) => {
  t.timeout(PATIENCE);
  const directory = mkdtempSync(join(tmpdir(), 'kiln-farm-'));
  chmodSync(directory, 0o755);
  const fixtures = process.env.KILN_FIXTURES ?? join(import.meta.dirname, '../../.cache/fixtures');
  try {
    await using pool = await Pool.start({ directory, fixtures, workers: 1 });
    const packages: string[] = [];
    for (const [name, needs] of [
      ['first', []],
      ['second', ['first-devel']],
    ] as const) {
      const spec = { name, buildRequires: needs, build: 'sleep 10' };
      packages.push(await sourcePackage(join(pool.home, 'srpms'), spec));
    }
    await execa('chmod', ['-R', 'a+rX', join(pool.home, 'srpms')]);
    const argv = ['build', '--chain', '--farm', '-r', 'debian-build', '--resultdir', 'out'];
    const front = pool.kiln([...argv, ...packages]);
    await new Promise<void>((resolve) => {
      front.stderr?.on('data', (chunk: Buffer) => {
        if (/first-1-1: building on/.test(chunk.toString())) resolve();
      });
      front.finally(resolve);
    });
    pool.killSubmit();
    await front;
    await pool.startSubmit();
    for (let tries = 0; tries < 100; tries++) {
      const asked = await pool.as(['condor_q', '-totals']);
      if (asked.exitCode === 0) break;
      await sleep(500);
    }
    const resumed = await pool.kiln(['farm', 'resume', 'out/'], { timeout: PATIENCE });
    t.is(resumed.exitCode, 0, String(resumed.stderr));
    const { members } = chainOf(join(pool.home, 'out'));
    t.deepEqual(
      members.map(({ state }) => state),
      ['built', 'built'],
    );
    // The step that ran meanwhile was not begun again.
    const log = join(pool.home, 'out/.kiln/farm/s1/events');
    t.is(readFileSync(log, 'utf8').match(/^001 /gm)?.length, 1);
  } finally {
    await removeTree(directory);
  }
});

test('the chain of the long test has twenty packages, six deep', (t) => {
  const all = twentyPackages();
  t.is(all.length, 20);
  const depth = (name: string): number => {
    const spec = all.find((one) => one.name === name);
    return (
      1 +
      Math.max(0, ...(spec?.buildRequires ?? []).map((one) => depth(one.replace(/-devel$/, ''))))
    );
  };
  t.is(Math.max(...all.map(({ name }) => depth(name))), 6);
});
