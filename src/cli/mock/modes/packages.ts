import { existsSync } from 'node:fs';
import type { Chroot } from '../../../jobs/mock/chroot.ts';
import { type InstallRequest, installPackages } from '../../../jobs/mock/root/install.ts';
import { addOwnPackages } from '../../../jobs/mock/root/local-packages.ts';
import { removePackages } from '../../../jobs/mock/root/remove.ts';
import type { MockRoot } from '../../../jobs/mock/root/root.ts';
import { digestFile } from '../../../packages/repository/cache.ts';
import { usageError } from '../command-line.ts';
import { argumentError } from '../exit-status.ts';
import { hostPath, type MockSession, packageSources, withRoot } from '../session.ts';

/** `--install PACKAGE…`: names or files. */
export async function install(session: MockSession): Promise<number> {
  const { line } = session;
  if (line.args.length === 0) throw argumentError('You must specify a package list to install.');
  return await withRoot(session, async (root, chroot) => {
    await installArguments(session, root, chroot, line.args);
    return 0;
  });
}

/** Installs the command line's packages into a root. */
export async function installArguments(
  session: MockSession,
  root: MockRoot,
  chroot: Chroot,
  args: readonly string[],
  requires: readonly string[] = [],
): Promise<void> {
  const { log, signal } = session;
  const sources = await packageSources(session, chroot);
  const files = args.filter(isPackageFile).map(hostPath);
  const digests = await Promise.all(files.map((file) => digestFile(file, 'sha256')));
  const own = files.length === 0 ? [] : await addOwnPackages(root, files, signal);
  const names = own
    .filter(({ sha256 }) => digests.includes(`sha256:${sha256}`))
    .map(({ location }) => location.replace(/\.rpm$/, ''));
  await log.state('install', () =>
    installPackages(root, {
      ...common(session),
      sources,
      install: [...args.filter((arg) => !isPackageFile(arg)), ...names],
      requires,
    }),
  );
}

/** `--update [PACKAGE…]` */
export async function update(session: MockSession): Promise<number> {
  const { line, log } = session;
  return await withRoot(session, async (root, chroot) => {
    const sources = await packageSources(session, chroot);
    const refresh = line.has('offline') ? 'never' : 'always';
    await log.state('update', () =>
      installPackages(root, {
        ...common(session),
        sources: { ...sources, refresh },
        install: [],
        renew: line.args.length === 0 ? 'all' : line.args,
      }),
    );
    return 0;
  });
}

/** `--remove PACKAGE…`, with the packages that need them. */
export async function remove(session: MockSession): Promise<number> {
  const { line, log, signal } = session;
  const packages = line.args;
  if (packages.length === 0) throw argumentError('You must specify a package list to remove.');
  return await withRoot(session, async (root) => {
    await log.state('remove', () =>
      removePackages(root, { packages, signal, log: (text) => log.output(text) }),
    );
    return 0;
  });
}

/** Commands of a package manager that kiln performs itself. */
const COMMANDS: Readonly<Record<string, (session: MockSession) => Promise<number>>> = {
  install,
  update,
  upgrade: update,
  remove,
  erase: remove,
};

/** `--pm-cmd`, `--dnf-cmd`, `--yum-cmd`: no package manager runs on the host. */
export async function packageManager(session: MockSession): Promise<number> {
  const { line } = session;
  const [command = '', ...args] = line.args.filter((word) => !/^(?:-y|--assumeyes)$/.test(word));
  const act = COMMANDS[command];
  if (act !== undefined) return await act({ ...session, line: { ...line, args } });
  throw usageError(
    `kiln does not do \`${command}\` of package managers`,
    `it does ${Object.keys(COMMANDS).join(', ')}; --chroot runs the root’s own package manager, if it has one`,
  );
}

function common({ log, signal }: MockSession): Pick<InstallRequest, 'signal' | 'log'> {
  return { signal, log: (text) => log.output(text) };
}

function isPackageFile(argument: string): boolean {
  return argument.endsWith('.rpm') && existsSync(hostPath(argument));
}
