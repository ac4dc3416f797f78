import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  KILN,
  PATIENCE,
} from '../support/busybox-state.ts';
import { openKiln } from '../support/kiln.ts';
import { lures } from './attempts/host-side.ts';
import { installProbe } from './setup.ts';

let state: BusyboxState;
let tree: string;

test.before(async (t) => {
  t.timeout(120_000 * PATIENCE);
  state = await busyboxState();
  tree = await installProbe(state);
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

/** Runs a command on a terminal of its own; gives the line that was typed there meanwhile. */
async function typedDuring(command: string): Promise<string> {
  const caller = `${command}; read -r -t 1 typed; echo "[typed: $typed]"`;
  const { stdout } = await execa('script', ['-qec', 'bash -c "$CALLER"', '/dev/null'], {
    env: { ...state.env, CALLER: caller },
    stdin: 'pipe', // an end of file would be passed on
    timeout: 60_000 * PATIENCE,
  });
  const typed = /\[typed: (.*)\]/.exec(stdout.replaceAll('\r', ''));
  if (typed === null) throw new Error(stdout);
  return typed[1] ?? '';
}

test.serial('nothing can be typed on the caller’s terminal', async (t) => {
  const probe = '/bin/probe tiocsti';
  for (const options of ['--tty', '', '--tty --user root', '--user root']) {
    t.is(await typedDuring(`'${KILN}' run -r ${IMAGE} ${options} -- ${probe}`), '', options);
  }
  t.is(await typedDuring(`${tree}${probe}`), 'typed by the probe', 'it cannot be done anyway');
});

/** Signals that an init waits for, ends of others' children, and bytes on whatever is open. */
const FORGE =
  'for i in 1 2 3 4 5 6 7 8 9; do kill -CHLD 1; kill -TERM 1; kill -HUP 1; (exit 0) & ' +
  '( (exit 0) & ) & done; ' +
  'for fd in 0 1 2 3 4 5 6 7 8 9; do echo x 2>/dev/null >/proc/1/fd/$fd; done; wait; ';

test.serial('an exit status cannot be forged', async (t) => {
  const forge = ['sh', '-c', `${FORGE} exit 42`];
  const result = await state.kiln(['run', '-r', IMAGE, '--user', 'root', '--', ...forge]);
  t.is(result.exitCode, 42, String(result.stderr));
});

test.serial('the exit status of another command in the sandbox cannot be forged', async (t) => {
  await using kiln = openKiln({ env: state.env });
  await using sandbox = await kiln.open({ image: IMAGE, user: 'root' });
  const honest = await sandbox.spawn('sh', ['-c', 'read -r go; exit 42']);
  const killed = await sandbox.spawn('sh', ['-c', 'echo $$; exec sleep 60']);
  const ends = [once(honest, 'close'), once(killed, 'close')];
  const [pid] = (await once(killed.stdout, 'data')) as [Buffer];
  const forger = await sandbox.spawn('sh', [
    '-c',
    `${FORGE} kill -KILL ${Number(String(pid))}; ${FORGE} exit 7`,
  ]);
  forger.stdout.resume();
  t.deepEqual(await once(forger, 'close'), [7, null]);
  honest.stdin.end('go\n');
  t.deepEqual(await Promise.all(ends), [
    [42, null],
    [null, 'SIGKILL'],
  ]);
});

for (const { verb, tries, script, careless, through, withoutSandbox } of lures) {
  test.serial(`${verb}: ${tries}`, async (t) => {
    const work = await mkdtemp(join(state.beside, 'lure-'));
    const [secrets, shared, results] = ['secrets', 'shared', 'results'].map((it) => join(work, it));
    for (const folder of [secrets, shared, `${work}/copied`]) await mkdir(String(folder));
    await chmod(String(shared), 0o777);
    const secret = join(String(secrets), 'secret');
    await writeFile(secret, 'the host’s\n');
    const make = (out: string, ...options: string[]) => {
      const env = [`--env=SECRET=${secret}`, `--env=SECRETS=${secrets}`, `--env=OUT=${out}`];
      const command = ['sh', '-c', `mkdir -p ${out} && ${script}`];
      const args = ['run', '-r', IMAGE, '--user', 'root', ...env, ...options, '--', ...command];
      return state.kiln(args);
    };
    const lured = (cwd: string) => execa('sh', ['-c', through], { cwd, reject: false });

    const made = await make('/out', '--artifact', '/out/*', '--resultdir', String(results));
    t.regex(String(made.stderr), /lure/, 'it is told');
    t.not((await lured(String(results))).exitCode, 0, 'it came out');

    const shown =
      withoutSandbox === true
        ? await execa('sh', ['-c', script], { env: { OUT: shared }, reject: false })
        : await make('/out', '--bind', `${shared}:/out:rw`);
    t.is(shown.exitCode, 0, String(shown.stderr));
    await execa('cp', [careless, `${shared}/lure`, `${work}/copied/`]);
    t.is((await lured(`${work}/copied`)).exitCode, 0, 'it cannot get through anyway');
  });
}
