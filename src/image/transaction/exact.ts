import { chmodSync, closeSync, constants, mkdirSync, openSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { openDirectory, unlinkat } from '../../host/files/at.ts';
import type { Engine } from '../../sandbox/open.ts';
import { ControlDirectory } from './control.ts';
import { SOLVED_BEFORE } from './rpm-options.ts';
import { failure } from './run-steps.ts';
import { TransactionSandbox } from './transaction-sandbox.ts';

/** What both exact ways need. */
export interface ExactTransaction {
  readonly engine: Engine;
  /** The tree whose rpm does the work. It is not changed. */
  readonly tree: string;
  /** Path of rpm in it. */
  readonly rpm: string;
  /** An empty folder for the sandbox's files. */
  readonly work: string;
  /** Work to do while rpm runs. */
  readonly meanwhile?: () => void;
  /** Whole package files. */
  readonly packages: readonly string[];
  /** The time limit for everything, seconds. */
  readonly timeout: number;
  /** Bytes that may be written. */
  readonly disk: number;
  readonly signal?: AbortSignal | undefined;
}

/** The path of the new root while another root's rpm fills it. */
const TARGET = '/kiln-target';

const INSTALL = [
  '-i',
  ...SOLVED_BEFORE,
  // A sandbox allows no unshare.
  '--define',
  '__transaction_unshare %{nil}',
];

/**
 * Lets the rpm of `tree` install packages into an empty root: `rpm --root -i` in a sandbox.
 * @returns the folder that is that root, still with the overlay's marks, and rpm's warnings.
 * @throws KilnError E_SCRIPTLET with what rpm said.
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

/**
 * Removes the file that stood for /dev/null, and /dev unless a package brings it. The tree is hostile by now.
 */
function removeDevNull(root: string, keepDev: boolean): void {
  const fd = openSync(root, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  try {
    const dev = openDirectory(fd, 'dev');
    try {
      unlinkat(dev, 'null');
    } finally {
      closeSync(dev);
    }
    if (!keepDev) unlinkat(fd, 'dev', { directory: true });
  } catch (error) {
    if (!hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP', 'EISDIR', 'ENOTEMPTY')) throw error;
  } finally {
    closeSync(fd);
  }
}

/**
 * Lets the rpm of `tree` install more packages into that same root.
 * @returns the overlay's upper directory, which holds the changes, and rpm's warnings.
 * @throws KilnError E_SCRIPTLET with what rpm said.
 */
export async function installOnTop(
  options: ExactTransaction & { readonly noScripts: boolean },
): Promise<{ readonly upper: string; readonly warnings: readonly string[] }> {
  const warnings = await runRpm(options, options.noScripts ? ['--noscripts', '--notriggers'] : []);
  return { upper: join(options.work, 'scratch', 'upper'), warnings };
}

async function runRpm(options: ExactTransaction, more: readonly string[]): Promise<string[]> {
  const { engine, tree, rpm, work, timeout, disk, signal, meanwhile } = options;
  const control = new ControlDirectory(join(work, 'control'));
  const files = options.packages.map((file) => control.addFile(file));
  await using sandbox = await TransactionSandbox.open(engine, {
    tree,
    scratch: join(work, 'scratch'),
    control: control.path,
    disk,
  });
  const argv = [rpm, ...more, ...INSTALL, ...files];
  const result = await sandbox.run({ argv, timeout, signal, meanwhile });
  await sandbox.finish();
  const lines = result.output.split('\n');
  // rpm also fails if a scriptlet failed too late to stop the installation.
  const installed = result.killedBy === null && !lines.some((line) => line.startsWith('error: '));
  if (result.status !== 0 && !installed) throw failure('rpm', result);
  return lines
    .filter((line) => line.startsWith('warning: '))
    .map((line) => line.replace('warning: ', ''));
}

/** The error for packages that need rpm, in an image without it. */
export function rpmMissing(reasons: readonly string[]): KilnError {
  return new KilnError(
    'E_RPM_MISSING',
    `only rpm itself installs these packages rightly, and the image has none: ${reasons.join('; ')}`,
    {
      hint: 'add rpm to the packages of the image, or leave scripts out: `scriptlets: {mode: none}`',
    },
  );
}
