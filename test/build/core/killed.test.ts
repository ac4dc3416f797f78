/** A build whose sandbox was killed tells nothing of its package. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { PATIENCE } from '../../support/busybox-state.ts';
import { endSleep, kill } from '../../support/killing.ts';
import { ownSeconds } from '../../support/processes.ts';
import { type BuildState, buildState, leftovers, sourcePackage } from './build-state.ts';

let state: BuildState;

test.before(async (t) => {
  t.timeout(300_000 * PATIENCE);
  state = await buildState('noarch');
});
test.after.always(() => state[Symbol.asyncDispose]());
test.afterEach.always(async (t) => {
  t.deepEqual(await leftovers(state), []);
});

const MINUTE = 60_000;

/** Sleeps in a section; another section of a build that comes later has none of it. */
const sleeping = (name: string, section: 'prep' | 'build', mark: string) =>
  sourcePackage(state.directory, {
    name,
    preamble: 'BuildArch: noarch',
    [section]: `trap 'exit 3' TERM; sleep ${mark} & wait`,
  });

for (const [victim, section] of [
  ['libvirt_lxc', 'build'],
  ['init', 'prep'],
  ['the init in its pid namespace', 'build'],
] as const) {
  test.serial(`kill -9 of ${victim} in %${section} is no failure of the package`, async (t) => {
    t.timeout(4 * MINUTE * PATIENCE);
    const mark = ownSeconds();
    const path = await sleeping('victim', section, mark);
    const out = await state.fresh();
    const words = ['build', '-r', state.recipe, '--resultdir', out, path];
    const build = state.images.kiln(words);
    await kill(victim, mark);
    const { exitCode, stderr } = await build;
    t.is(exitCode, 125, String(stderr));
    t.regex(String(stderr), /ended before its command did \[E_SANDBOX_GONE\]/);
    const result = JSON.parse(await readFile(join(out, 'result.json'), 'utf8'));
    t.is(result.exitStatus, 125);
    t.is(result.exit, null);
    const phase = section === 'build' ? 'compile' : 'prep';
    t.like(result.failure, { code: 'E_SANDBOX_GONE', phase });
  });
}

test.serial('--verify: a killed second build is not reported as a difference', async (t) => {
  t.timeout(6 * MINUTE * PATIENCE);
  const mark = ownSeconds();
  const path = await sourcePackage(state.directory, {
    name: 'twice',
    preamble: 'BuildArch: noarch',
    // The second build has another host name.
    build: `test "$(hostname)" != another-host || sleep ${mark}`,
  });
  const out = await state.fresh();
  const build = state.images.kiln([
    ...['build', '-r', state.recipe, '--verify', '--resultdir', out, path],
  ]);
  await kill('init', mark);
  const { exitCode, stderr } = await build;
  t.is(exitCode, 125, String(stderr));
  t.regex(String(stderr), /E_SANDBOX_GONE/);
  t.notRegex(String(stderr), /E_BUILD_DIFFERS/);
});

test.serial('a chain builds again after a sandbox was killed, and blames no package', async (t) => {
  t.timeout(8 * MINUTE * PATIENCE);
  const mark = ownSeconds();
  const path = await sleeping('link', 'build', mark);
  for (const kills of [2, 1] as const) {
    const out = await state.fresh();
    const words = ['build', '--chain', '-r', state.recipe, '--resultdir', out, path];
    const chain = state.images.kiln(words);
    await kill('libvirt_lxc', mark);
    if (kills === 2) await kill('init', mark);
    else await endSleep(mark);
    const { exitCode, stderr } = await chain;
    t.is(exitCode, kills === 2 ? 125 : 0, String(stderr));
    t.regex(
      String(stderr),
      /warning: link: its sandbox was killed, so it is built once more \[killed\]/,
    );
    const { members } = JSON.parse(await readFile(join(out, 'chain.json'), 'utf8'));
    t.is(members[0].state, kills === 2 ? 'failed' : 'built');
    t.is(members[0].failure?.code, kills === 2 ? 'E_SANDBOX_GONE' : undefined);
  }
});
