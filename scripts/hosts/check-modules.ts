import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { installProbe } from '../../test/escape/setup.ts';
import { type BusyboxState, IMAGE } from '../../test/support/busybox-state.ts';

/** Each names all that a kernel may have a module for: test/escape/probe-network.c. */
const VERBS = [
  ...['every-protocol', 'ia32-every-protocol', 'pair-socket'],
  ...['bridge-ioctl', 'vlan-ioctl', 'line-discipline'],
];

/** Options of `kiln run`, and what runs the probe. */
const SANDBOXES: readonly (readonly [options: readonly string[], runner: readonly string[]])[] = [
  [[], []],
  [['--user', 'root'], []],
  [['--seccomp', 'build'], []],
  [['--seccomp', 'strict'], []],
  [['--network', 'host', '--allow-host-network'], []],
  [['--profile', 'nested'], []],
  [
    ['--profile', 'nested'],
    ['unshare', '-U', '-r', '-n'],
  ],
];

async function modules(): Promise<string[]> {
  const lines = (await readFile('/proc/modules', 'utf8')).trim().split('\n');
  return lines.map((line) => line.split(' ')[0] ?? '').sort();
}

/** Modules that were loaded without a sandbox, for whichever engine. */
const found = new Set<string>();

/** Sandboxes that name every protocol load no module of the host's kernel; without a sandbox some are loaded. */
export async function checkModules(state: BusyboxState): Promise<void> {
  const tree = await installProbe(state);
  // Other checks of the engine before have loaded them again: test/escape runs the probe without a sandbox, too.
  await unload([...found]);
  for (const [options, runner] of SANDBOXES) {
    const run = ['run', '-r', IMAGE, ...options, '--'];
    // A sandbox may itself be the first to need one, as overlayfs.
    const first = await state.kiln([...run, ...runner, 'true']);
    assert.equal(first.exitCode, 0, `${[...options, ...runner].join(' ')}: ${first.stderr}`);
    const before = await modules();
    const { exitCode, stdout, stderr } = await state.kiln([
      ...run,
      ...runner,
      '/bin/probe',
      ...VERBS,
    ]);
    assert.equal(exitCode, 0, String(stderr));
    assert.equal(String(stdout).trim().split('\n').length, VERBS.length, String(stdout));
    assert.deepEqual(await modules(), before, `loaded by ${[...options, ...runner].join(' ')}`);
  }
  const before = await modules();
  await execa(join(tree, 'bin/probe'), VERBS);
  const loaded = (await modules()).filter((name) => !before.includes(name));
  assert.notEqual(loaded.length, 0, 'this host has no such modules: nothing is shown');
  for (const name of loaded) found.add(name);
}

/** One at a time: modprobe stops at the first that others still need. */
async function unload(names: readonly string[]): Promise<void> {
  for (let round = 0; round < 3; round++) {
    for (const name of names) await execa('modprobe', ['--remove', name], { reject: false });
    const left = await modules();
    if (!names.some((name) => left.includes(name))) return;
  }
}
