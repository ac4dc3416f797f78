/** Recipes in machines. Emulated ones take long to start. */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { long } from '../support/long.ts';

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
});

test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

async function build(text: string, ...options: string[]) {
  const recipe = join(state.beside, 'recipe.yaml');
  await writeFile(recipe, text);
  const results = join(state.beside, 'results');
  const words = ['--isolation', 'vm', '--resultdir', results, ...options];
  const timeout = 240_000 * PATIENCE;
  const { exitCode, stderr } = await state.kiln(['build', recipe, ...words], { timeout });
  const read = (name: string) => readFile(join(results, name), 'utf8');
  return { exitCode, stderr: String(stderr), read };
}

long('the steps of a recipe run in one machine', async (t) => {
  t.timeout(300_000 * PATIENCE);
  const steps = [
    '{ name: first, run: "cat /proc/version > /tmp/made; sleep 1000 &" }',
    '{ name: second, run: "cat /tmp/made > /tmp/out; exit 3" }',
  ];
  const text = `image: ${IMAGE}\nartifacts: [/tmp/out]\nsteps:\n${steps.map((step) => `  - ${step}\n`).join('')}`;
  const { exitCode, stderr, read } = await build(text, '--allow-missing', 'kvm');
  t.is(exitCode, 3, stderr);
  t.not(await read('out'), await readFile('/proc/version', 'utf8'));
  const { policy, failure } = JSON.parse(await read('result.json'));
  t.is(policy.isolation, 'vm');
  t.is(failure.phase, 'step second');
  t.true((await read('out')).includes(policy.machine.kernel));
});

test('a recipe itself cannot choose a machine or a container', async (t) => {
  const { exitCode, stderr } = await build(
    `image: ${IMAGE}\nsandbox: { isolation: container }\nsteps: [ls]\n`,
  );
  t.is(exitCode, 125);
  t.regex(stderr, /isolation: unknown key/);
});
