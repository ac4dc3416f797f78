import { join } from 'node:path';
import { KilnError } from '../../../errors.ts';
import { ownPath } from '../../../host/files/held.ts';
import { DEFAULT_DISK, type DiskBound, DiskWatch } from '../../../host/state/disk-watch.ts';
import { emptyTrash, openWorkDirectory } from '../../../image/store/work-directory.ts';
import { CONTROL, ControlDirectory } from '../../../image/transaction/transaction-sandbox.ts';
import { globExpression } from '../../../packages/solver/match.ts';
import type { MockRoot } from './root.ts';
import { type Captured, RootSandbox, type RootSandboxOptions } from './root-sandbox.ts';

export interface PackageSession {
  readonly sandbox: RootSandbox;
  readonly lend: (file: string) => string;
  readonly rpm: (argv: readonly string[]) => Promise<Captured>;
}

interface SessionOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onOutput: (chunk: Buffer) => void;
  /** Bytes that packages and scriptlets may write; 16 GiB by default. */
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
  const { path: source } = control;
  const bind = { source, place: ownPath(source), target: CONTROL, readonly: true };
  const where = { hostname: 'localhost', binds: [bind], command: ['rpm'] };
  const bound = {
    tree: root.scratch,
    bytes: options.disk ?? DEFAULT_DISK,
    who: 'the packages and their scriptlets',
    hint: 'packages that large belong in the image that the root is made on, whose recipe says `disk: 64G`',
  };
  const { signal, onOutput } = options;
  return await inRoot(root, { ...where, bound }, (sandbox) => {
    const rpm = (argv: readonly string[]) =>
      sandbox.capture(['rpm', '--define', '__transaction_unshare %{nil}', ...argv], {
        transaction: true,
        signal,
        onOutput,
      });
    return act({ sandbox, lend: (file) => control.addFile(file), rpm });
  });
}

/**
 * Opens a sandbox on a root, calls `act`, and ends the sandbox when the disk becomes full. A root that takes more than
 * its bound is removed, or goes back to its snapshot: a user's own, or that of the options. It is not the way of jobs (`inSandbox()`): a root's files
 * stay as the command left them, so nothing is collected or kept, and the watch of the disk decides how it ended.
 * @throws KilnError E_DISK, E_DISK_LOW
 */
export async function inRoot<Result>(
  root: MockRoot,
  options: RootSandboxOptions & { readonly bound?: DiskBound },
  act: (sandbox: RootSandbox) => Promise<Result>,
): Promise<Result> {
  const bound = (await root.bound()) ?? options.bound;
  await using sandbox = await RootSandbox.open(root, options);
  using disk = new DiskWatch(root.scratch, bound);
  disk.kills(sandbox.sandbox.initPid);
  if (bound !== undefined) await disk.ready();
  try {
    const result = await act(sandbox);
    // The watch kills the whole sandbox, so the disk is the reason, not the command's end.
    await disk.throwIfKilled();
    if (bound === undefined) return result;
    await sandbox.sandbox.killAll();
    await disk.finish();
    return result;
  } catch (error) {
    await disk.throwIfKilled().catch(() => undefined);
    if (!disk.signal.aborted) throw error;
    if (bound === undefined) throw disk.signal.reason;
    await sandbox.close();
    await root.clean();
    await emptyTrash(root.engine.paths);
    throw disk.signal.reason;
  }
}

/** Runs `act`, which changes packages. A root is incomplete after a kill, but not after a failure of rpm. */
export async function changing(root: MockRoot, act: () => Promise<void>): Promise<void> {
  await root.note({ changing: true, pristine: false });
  await act();
  await root.note({ changing: false });
}

export function transactionError(what: string, { output, exitCode, signal }: Captured): KilnError {
  const lines = output.split('\n').filter((line) => line.trim() !== '');
  const end = signal === null ? `exit status ${exitCode}` : `killed by ${signal}`;
  const shown = lines.slice(-20).map((line) => `\n  ${line}`);
  return new KilnError('E_MOCK_PACKAGES', `${what}: rpm ended with ${end}:${shown.join('')}`);
}

export interface InstalledPackage {
  readonly name: string;
  readonly arch: string;
  readonly nevra: string;
}

const FORMAT = '%{name}\t%{epochnum}\t%{version}\t%{release}\t%{arch}\n';

export async function installedPackages(
  sandbox: RootSandbox,
  signal?: AbortSignal,
): Promise<InstalledPackage[]> {
  const argv = ['rpm', '-qa', '--qf', FORMAT];
  const { exitCode, stdout, output } = await sandbox.capture(argv, { signal });
  if (exitCode !== 0) {
    const what = `rpm cannot list the installed packages: ${output.trim()}`;
    throw new KilnError('E_MOCK_PACKAGES', what, {
      hint: '`kiln-mock --clean` removes the root; the next call makes it again',
    });
  }
  const packages: InstalledPackage[] = [];
  for (const line of stdout.split('\n')) {
    const [name, epoch, version, release, arch] = line.split('\t');
    if (name === undefined || arch === undefined || name === 'gpg-pubkey') continue;
    const prefix = epoch === '0' ? '' : `${epoch}:`;
    packages.push({ name, arch, nevra: `${name}-${prefix}${version}-${release}.${arch}` });
  }
  return packages;
}

/** The packages that a name, glob or NEVRA means. */
export function namedBy(
  pattern: string,
  installed: readonly InstalledPackage[],
): InstalledPackage[] {
  const expression = globExpression(pattern);
  return installed.filter(({ name, arch, nevra }) =>
    [name, `${name}.${arch}`, nevra].some((text) => expression.test(text)),
  );
}

interface RemoveRequest {
  readonly packages: readonly string[];
  readonly signal?: AbortSignal | undefined;
  readonly log: (text: string) => void;
  readonly warn: (message: string) => void;
}

const MAX_ROUNDS = 50;

/** Without rpm the root cannot be changed any more. */
export const PROTECTED = 'rpm';

/**
 * Removes packages and those that need them, as `dnf remove` does: what is not installed is only said. The root's own
 * rpm finds and removes them.
 * @param request.packages names, globs, NEVRAs
 * @throws KilnError E_MOCK_PACKAGES: protected, or rpm fails
 */
export async function removePackages(
  root: MockRoot,
  { packages, signal, log, warn }: RemoveRequest,
): Promise<void> {
  const onOutput = () => undefined;
  await withPackages(root, { signal, onOutput }, async (session) => {
    const before = await installedPackages(session.sandbox, signal);
    const wanted = new Set(
      packages.flatMap((pattern) => {
        const found = namedBy(pattern, before);
        return found.length === 0 ? [pattern] : found.map(({ name }) => name);
      }),
    );
    for (let round = 0; ; round++) {
      if (wanted.size === 0) {
        log('Nothing to do.\n');
        return;
      }
      const test = await session.rpm(['-e', '--test', ...wanted]);
      if (test.exitCode === 0) break;
      const absent = [...wanted].filter((name) =>
        test.output.includes(`package ${name} is not installed`),
      );
      for (const name of absent) {
        warn(`No match for argument: ${name}`);
        wanted.delete(name);
      }
      if (absent.length > 0) continue;
      const more = dependents(test.output).filter((name) => !wanted.has(name));
      if (more.length === 0 || round === MAX_ROUNDS) {
        throw transactionError('the packages cannot be removed', test);
      }
      for (const name of more) wanted.add(name);
    }
    for (const name of wanted) log(`Removing ${name}\n`);
    if (before.some(({ name, nevra }) => name === PROTECTED && isOneOf(wanted, name, nevra))) {
      const what = `${PROTECTED} would be removed, and without it no package can be installed or removed`;
      throw new KilnError('E_MOCK_PACKAGES', what, {
        hint: 'make a root without it with --init from another configuration',
      });
    }
    await changing(root, async () => {
      const result = await session.rpm(['-e', ...wanted]);
      if (result.exitCode === 0) return;
      await root.note({ changing: false });
      throw transactionError('the packages cannot be removed', result);
    });
    const left = new Set((await installedPackages(session.sandbox, signal)).map((it) => it.nevra));
    root.setPackages(root.packages().filter(({ nevra }) => left.has(nevra)));
  });
}

function dependents(output: string): string[] {
  return [...output.matchAll(/ is needed by \(installed\) (\S+)/g)].map(([, name]) => name ?? '');
}

function isOneOf(names: ReadonlySet<string>, name: string, nevra: string): boolean {
  return names.has(name) || names.has(nevra) || names.has(nevra.replace(/-\d+:/, '-'));
}
