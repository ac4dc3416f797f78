import { join } from 'node:path';
import { KilnError } from '../../../errors.ts';
import { DEFAULT_DISK, DiskWatch } from '../../../host/state/disk-watch.ts';
import { emptyTrash, openWorkDirectory } from '../../../image/store/work-directory.ts';
import { ControlDirectory } from '../../../image/transaction/control.ts';
import { CONTROL } from '../../../image/transaction/transaction-sandbox.ts';
import type { MockRoot } from './root.ts';
import { type Captured, RootSandbox } from './root-sandbox.ts';

/** What changing packages needs. */
export interface PackageSession {
  readonly sandbox: RootSandbox;
  /** Makes a file of the host visible in the sandbox; returns its path there. */
  readonly lend: (file: string) => string;
  /** Runs the root's own rpm with the rights of packages' scripts. */
  readonly rpm: (argv: readonly string[]) => Promise<Captured>;
}

export interface SessionOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called with rpm's output as it comes. */
  readonly onOutput: (chunk: Buffer) => void;
  /** The most bytes that packages and scriptlets may write; 16 GiB by default. */
  readonly disk?: number | undefined;
}

/**
 * Calls `act` with a sandbox on a root in which packages can be changed. It has no network and, of the host,
 * only the packages made visible.
 * @throws KilnError E_DISK, E_DISK_LOW: the root is removed then
 */
export async function withPackages<Result>(
  root: MockRoot,
  options: SessionOptions,
  act: (session: PackageSession) => Promise<Result>,
): Promise<Result> {
  await using work = await openWorkDirectory(root.engine.paths);
  const control = new ControlDirectory(join(work.path, 'control'));
  await using sandbox = await RootSandbox.open(root, {
    hostname: 'localhost',
    binds: [{ source: control.path, target: CONTROL, readonly: true }],
    command: ['rpm'],
  });
  using disk = new DiskWatch(root.scratch, {
    tree: root.scratch,
    bytes: options.disk ?? DEFAULT_DISK,
    who: 'the packages and their scriptlets',
    hint: 'packages that large belong in the image that the root is made on, whose recipe says `disk: 64G`',
  });
  disk.kills(sandbox.sandbox.initPid);
  await disk.ready();
  try {
    const result = await act({
      sandbox,
      lend: (file) => control.addFile(file),
      rpm: (argv) =>
        sandbox.capture(['rpm', '--define', '__transaction_unshare %{nil}', ...argv], {
          transaction: true,
          signal: options.signal,
          onOutput: options.onOutput,
        }),
    });
    await sandbox.sandbox.killAll();
    await disk.finish();
    return result;
  } catch (error) {
    if (!disk.signal.aborted) throw error;
    // The disk has no room for what it wrote.
    await sandbox.close();
    await root.remove();
    await emptyTrash(root.engine.paths);
    throw disk.signal.reason;
  }
}

/**
 * Runs `act`, which changes the root's packages. If it is killed meanwhile, the root is known to be incomplete.
 * If rpm itself fails, the root stays as rpm leaves it, which is complete.
 */
export async function changing<Result>(
  root: MockRoot,
  act: () => Promise<Result>,
): Promise<Result> {
  await root.note({ changing: true, pristine: false });
  const result = await act();
  await root.note({ changing: false });
  return result;
}

/** The error of a failed rpm. */
export function rpmFailed(what: string, { output, exitCode, signal }: Captured): KilnError {
  const lines = output.split('\n').filter((line) => line.trim() !== '');
  const end = signal === null ? `exit status ${exitCode}` : `killed by ${signal}`;
  const shown = lines.slice(-20).map((line) => `\n  ${line}`);
  return new KilnError('E_MOCK_PACKAGES', `${what}: rpm ended with ${end}:${shown.join('')}`);
}
