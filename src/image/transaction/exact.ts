import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Engine } from '../../engine.ts';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { unlessErrno } from '../../host/calls/libc.ts';
import { AT_FDCWD, openDirectory, unlinkat } from '../../host/files/at.ts';
import type { ScriptletPolicy } from '../../recipe/load-image-recipe.ts';
import { stepError } from './run-steps.ts';
import { ControlDirectory, SOLVED_BEFORE, TransactionSandbox } from './transaction-sandbox.ts';

interface ExactTransaction {
  readonly engine: Engine;
  readonly scriptlets: ScriptletPolicy;
  readonly signal?: AbortSignal | undefined;
  readonly tree: string;
  readonly rpm: string;
  readonly work: string;
  readonly meanwhile?: () => void;
  readonly packages: readonly string[];
}

const TARGET = '/kiln-target';

const INSTALL = [
  '-i',
  ...SOLVED_BEFORE,
  // A sandbox allows no unshare.
  '--define',
  '__transaction_unshare %{nil}',
];

/**
 * `rpm --root -i` in a sandbox, by the rpm of `tree`.
 * @returns the new root, still with the overlay's marks, and rpm's warnings
 * @throws KilnError E_SCRIPTLET with what rpm said
 */
export async function installIntoEmptyRoot(
  options: ExactTransaction & { /** Whether a package brings /dev. */ readonly hasDev: boolean },
): Promise<{ readonly root: string; readonly warnings: readonly string[] }> {
  const root = join(options.work, 'scratch', 'upper', TARGET);
  mkdirSync(join(root, 'dev'), { recursive: true });
  for (const folder of [dirname(root), root, join(root, 'dev')]) chmodSync(folder, 0o755);
  // Scripts write to /dev/null, and no device can be made inside another root.
  const devNull = join(root, 'dev', 'null');
  writeFileSync(devNull, '');
  chmodSync(devNull, 0o666);
  const warnings = await runRpm(options, ['--root', TARGET]);
  removeDevNull(root, options.hasDev);
  return { root, warnings };
}

/** Removes /dev, too, unless a package brings it. The tree is hostile by now. */
function removeDevNull(root: string, keepDev: boolean): void {
  using top = closing(openDirectory(AT_FDCWD, root));
  unlessErrno(['ENOENT', 'ENOTDIR', 'ELOOP', 'EISDIR', 'ENOTEMPTY'], () => {
    using dev = closing(openDirectory(top.fd, 'dev'));
    unlinkat(dev.fd, 'null');
    if (!keepDev) unlinkat(top.fd, 'dev', { directory: true });
  });
}

/**
 * Lets the rpm of `tree` install into that same root.
 * @returns the overlay's upper directory, which holds the changes, and rpm's warnings
 * @throws KilnError E_SCRIPTLET with what rpm said
 */
export async function installOnTop(
  options: ExactTransaction,
): Promise<{ readonly upper: string; readonly warnings: readonly string[] }> {
  const noScripts = options.scriptlets.mode === 'none';
  const warnings = await runRpm(options, noScripts ? ['--noscripts', '--notriggers'] : []);
  return { upper: join(options.work, 'scratch', 'upper'), warnings };
}

async function runRpm(options: ExactTransaction, more: readonly string[]): Promise<string[]> {
  const { engine, tree, rpm, work, scriptlets, signal, meanwhile } = options;
  const control = new ControlDirectory(join(work, 'control'));
  const files = options.packages.map((file) => control.addFile(file));
  await using sandbox = await TransactionSandbox.open(engine, {
    tree,
    scratch: join(work, 'scratch'),
    control: control.path,
    disk: scriptlets.disk,
  });
  // rpm has no time limit for a single script.
  const timeout = scriptlets.timeout * (files.length + 1);
  const argv = [rpm, ...more, ...INSTALL, ...files];
  const result = await sandbox.run({ argv, timeout, signal, meanwhile });
  await sandbox.finish();
  const lines = result.output.split('\n');
  // rpm also fails if a scriptlet failed too late to stop the installation.
  const installed = result.killedBy === null && !lines.some((line) => line.startsWith('error: '));
  if (result.status !== 0 && !installed) throw stepError('rpm', result);
  return lines
    .filter((line) => line.startsWith('warning: '))
    .map((line) => line.replace('warning: ', ''));
}

export function rpmMissingError(reasons: readonly string[]): KilnError {
  return new KilnError(
    'E_RPM_MISSING',
    `only rpm itself installs these packages rightly, and the image has none: ${reasons.join('; ')}`,
    {
      hint: 'add rpm to the packages of the image, or leave scripts out: `scriptlets: {mode: none}`',
    },
  );
}
