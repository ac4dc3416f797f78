/** A sandbox that is killed tells nothing of its command: no job takes it for the command's end. */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { ResultPromise } from 'execa';
import { processes } from '../../scripts/crash/processes.ts';
import { type ApiState, apiState, program } from '../support/api.ts';
import { eventually } from '../support/eventually.ts';
import { kill, VICTIMS, type Victim } from '../support/killing.ts';
import { ownSeconds } from '../support/processes.ts';

let state: ApiState;

test.before(async () => {
  state = await apiState();
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

const IMAGE = ['-r', 'busybox'];
/** If it may, it ends as a failed make does. */
const WORK = (mark: string) => ['sh', '-c', `trap 'exit 2' TERM; echo begun; sleep ${mark} & wait`];
async function says(t: ExecutionContext, running: ResultPromise, what: string): Promise<void> {
  const { exitCode, stdout, stderr } = await running;
  t.is(exitCode, 125, `${what}: ${stderr}`);
  t.regex(String(stderr), /sandbox .*ended before its command did \[E_SANDBOX_GONE\]/, what);
  t.regex(String(stderr), /hint: .*`kiln kill`|hint: `kiln ps`/, what);
  t.regex(String(stdout), /^begun/m, `${what}: what it wrote before is there`);
}

const served = () => ({ env: state.userEnv, extendEnv: false });

for (const victim of Object.keys(VICTIMS) as Victim[]) {
  test.serial(`kill -9 of ${victim}: run says so, with the daemon and without`, async (t) => {
    for (const [options, what] of [
      [served(), 'by kilnd'],
      [{}, 'without'],
    ] as const) {
      const mark = ownSeconds();
      const run = state.kiln(['run', ...IMAGE, '--', ...WORK(mark)], options);
      await kill(victim, mark);
      await says(t, run, what);
    }
    const mark = ownSeconds();
    const out = join(state.beside, `out-${mark}`);
    await mkdir(out);
    const artifacts = ['--artifact', 'x', '--workdir', '/tmp', '--resultdir', out];
    const run = state.kiln(['run', ...IMAGE, ...artifacts, '--', ...WORK(mark)], served());
    await kill(victim, mark);
    await says(t, run, 'with results');
    const result = JSON.parse(await readFile(join(out, 'result.json'), 'utf8'));
    t.is(result.exitStatus, 125);
    t.is(result.exit, null);
    t.like(result.failure, { code: 'E_SANDBOX_GONE', phase: 'command' });
  });
}

test.serial('a run says that it was killed: on a terminal, and by `kiln kill`', async (t) => {
  const mark = ownSeconds();
  const inTerminal = state.kiln(['run', '-t', ...IMAGE, '--', ...WORK(mark)], served());
  await kill('init', mark);
  await says(t, inTerminal, 'a terminal');
  const other = ownSeconds();
  const run = state.kiln(['run', ...IMAGE, '--', ...WORK(other)], served());
  const id = await eventually(async () => {
    const { stdout } = await state.kiln(['ps', '--json'], served());
    const all = JSON.parse(String(stdout)) as { id: string; record: { command?: string[] } }[];
    return all.find(({ record }) => record.command?.some((word) => word.includes(other)))?.id;
  });
  await eventually(async () => processes().some(({ command }) => command === `sleep ${other}`));
  t.is((await state.kiln(['kill', id], served())).exitCode, 0);
  await says(t, run, 'kiln kill');
});

test.serial('a killed detached job says so in its status, log and result', async (t) => {
  const mark = ownSeconds();
  const out = join(state.beside, `out-${mark}`);
  await mkdir(out);
  const words = ['run', ...IMAGE, '--detach', '--json', '--', ...WORK(mark)];
  const id = String((await state.kiln(words, served())).stdout);
  await kill('libvirt_lxc', mark);
  const waited = await state.kiln(['wait', id], served());
  t.is(waited.exitCode, 125, String(waited.stderr));
  const logs = await state.kiln(['logs', id], served());
  t.regex(String(logs.stderr), /E_SANDBOX_GONE/);
  t.regex(String(logs.stderr), /"code":"E_SANDBOX_GONE"/);
});

test.serial('exec says that its sandbox was killed, also in a kept sandbox', async (t) => {
  const first = ownSeconds();
  const run = state.kiln(['run', ...IMAGE, '--', ...WORK(first)], served());
  const id = await eventually(async () => {
    const { stdout } = await state.kiln(['ps', '--json'], served());
    const all = JSON.parse(String(stdout)) as { id: string; record: { command?: string[] } }[];
    return all.find(({ record }) => record.command?.some((word) => word.includes(first)))?.id;
  });
  const second = ownSeconds();
  const visitor = state.kiln(['exec', id, '--', ...WORK(second)], served());
  await kill('init', second);
  await says(t, visitor, 'exec beside');
  await says(t, run, 'the command that it was beside');
  const kept = await state.kiln(['run', ...IMAGE, '--keep', '--', 'true'], served());
  const [, keptId = ''] = /kept as (\w+)/.exec(String(kept.stderr)) ?? [];
  const third = ownSeconds();
  const inside = state.kiln(['exec', keptId, '--', ...WORK(third)], served());
  const fourth = ownSeconds();
  await eventually(async () => processes().some(({ command }) => command === `sleep ${third}`));
  const beside = state.kiln(['exec', keptId, '--', ...WORK(fourth)], served());
  await kill('libvirt_lxc', fourth);
  await says(t, inside, 'exec in a kept one');
  await says(t, beside, 'exec beside that');
});

test.serial('the API says that a sandbox was killed, in Run and in Execute', async (t) => {
  const call = async (method: string, parameters: object) => {
    const words = ['--no-pager', '-j', 'call', state.socket, `io.kiln.${method}`];
    return await program('varlinkctl', [...words, JSON.stringify(parameters)]);
  };
  const mark = ownSeconds();
  const running = call('Run', { image: 'busybox', argv: WORK(mark) });
  await kill('init', mark);
  const ran = await running;
  t.not(ran.code, 0);
  t.regex(`${ran.stdout}${ran.stderr}`, /E_SANDBOX_GONE/);
  const opened = JSON.parse((await call('OpenSandbox', { image: 'busybox' })).stdout);
  const other = ownSeconds();
  const executing = call('Execute', { sandbox: opened.sandbox, argv: WORK(other) });
  await kill('libvirt_lxc', other);
  const executed = await executing;
  t.not(executed.code, 0);
  t.regex(`${executed.stdout}${executed.stderr}`, /E_SANDBOX_GONE/);
});

test.serial('a recipe says that its sandbox was killed, even if a step hides it', async (t) => {
  const script = ownSeconds();
  const yaml = join(state.beside, 'recipe.yaml');
  await writeFile(
    yaml,
    `image: busybox\nsteps:\n  - { name: long, run: 'echo begun; sleep ${script}' }\n`,
  );
  const first = state.kiln(['build', yaml, '-r', 'busybox'], served());
  await kill('init', script);
  await says(t, first, 'a script');
  const call = ownSeconds();
  const module = join(state.beside, 'recipe.ts');
  await writeFile(
    module,
    `import { defineRecipe } from 'kiln';
import { $ } from 'zx';
export default defineRecipe({ image: 'busybox', steps: [{ name: 'long', async run() {
  await $\`echo begun; sleep ${call}\`.nothrow();
} }] });
`,
  );
  const second = state.kiln(['build', module, '-r', 'busybox'], served());
  await kill('libvirt_lxc', call);
  await says(t, second, 'a function');
});
