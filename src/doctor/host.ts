import { access, constants, glob, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoName } from '../host/calls/libc.ts';
import { runTool } from '../host/process/child-process.ts';
import { patience } from '../host/process/wait-for.ts';
import { packageRoot } from '../host/state/paths.ts';

/** The families of package managers that host-packages.txt has a column for. */
type Family = 'debian' | 'fedora' | 'suse';

const COLUMNS: readonly Family[] = ['debian', 'fedora', 'suse'];

const INSTALL: Readonly<Record<Family, string>> = {
  debian: 'apt-get install',
  fedora: 'dnf install',
  suse: 'zypper install',
};

/** Words of os-release's ID and ID_LIKE (os-release(5)) that tell the family. */
const FAMILY_WORDS: Readonly<Record<string, Family>> = {
  debian: 'debian',
  ubuntu: 'debian',
  fedora: 'fedora',
  rhel: 'fedora',
  centos: 'fedora',
  suse: 'suse',
  opensuse: 'suse',
};

/** A row of scripts/host-packages.txt that this host lacks. */
interface MissingNeed {
  /** As written there, without the kind: a command, a library, a file. */
  readonly what: string;
  /** The package with it; undefined if this family has none. */
  readonly package: string | undefined;
}

/** The kind of machine, as far as installing packages goes. */
export interface Host {
  /** The distribution's own name for itself. */
  readonly name: string;
  readonly family: Family;
  /** The rows of host-packages.txt that are missing for these uses (`run`, `build`, …). */
  missing(uses: readonly string[]): Promise<MissingNeed[]>;
  /** The command that installs these packages. */
  install(packages: readonly string[]): string;
}

/** Reads what the host is. `env.PATH` decides which commands it has. */
export async function readHost(env: NodeJS.ProcessEnv): Promise<Host> {
  const text = await readFile('/etc/os-release', 'utf8').catch(() => '');
  const field = (name: string) => new RegExp(`^${name}="?([^"\n]*)`, 'm').exec(text)?.[1] ?? '';
  const words = `${field('ID')} ${field('ID_LIKE')}`.split(/[\s-]+/);
  const family = words.map((word) => FAMILY_WORDS[word]).find((known) => known !== undefined);
  const known = family ?? 'debian';
  return {
    name: field('PRETTY_NAME') || 'unknown Linux',
    family: known,
    missing: (uses) => missingNeeds(uses, known, env),
    install: (packages) => `${INSTALL[known]} ${packages.join(' ')}`,
  };
}

/** The path of the command `name`, by PATH. */
async function findCommand(name: string, env: NodeJS.ProcessEnv): Promise<string | undefined> {
  for (const folder of (env.PATH ?? '').split(':')) {
    const path = join(folder, name);
    if (folder.startsWith('/') && (await isExecutable(path))) return path;
  }
  return undefined;
}

async function isExecutable(path: string): Promise<boolean> {
  return access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}

async function missingNeeds(
  uses: readonly string[],
  family: Family,
  env: NodeJS.ProcessEnv,
): Promise<MissingNeed[]> {
  const table = await readFile(join(packageRoot(), 'scripts/host-packages.txt'), 'utf8');
  const libraries = await knownLibraries();
  const missing: MissingNeed[] = [];
  for (const line of table.split('\n')) {
    const [use = '', need = '', ...packages] = line.trim().split(/\s+/);
    if (!uses.includes(use)) continue;
    const [kind, what = ''] = splitOnce(need, ':');
    if (await isMet(kind, what, libraries, env)) continue;
    const name = packages[COLUMNS.indexOf(family)];
    missing.push({ what: splitOnce(what, ',')[0], package: name === '-' ? undefined : name });
  }
  return missing;
}

function splitOnce(text: string, separator: string): [string, string | undefined] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}

async function isMet(
  kind: string,
  what: string,
  libraries: ReadonlySet<string>,
  env: NodeJS.ProcessEnv,
): Promise<boolean> {
  if (kind === 'command') return (await findCommand(what, env)) !== undefined;
  if (kind === 'library') return libraries.has(what);
  for await (const _ of glob(what.split(','))) return true;
  return false;
}

/** The sonames in the dynamic linker's cache. */
async function knownLibraries(): Promise<Set<string>> {
  const { stdout } = await runTool('ldconfig', ['-p'], {
    env: { PATH: '/usr/sbin:/sbin:/usr/bin:/bin' },
  });
  return new Set(stdout.split('\n').map((line) => line.trim().split(' ')[0] ?? ''));
}

/** The guest init, as the build makes it. */
export function initPath(): string {
  return join(packageRoot(), 'dist/kiln-init');
}

/**
 * How long libvirtd may be silent for a check, ms: less than usual, because the caller wants to know what is
 * wrong.
 */
export function libvirtPatience(): number {
  return Math.min(10_000, patience());
}

/** A refused operation with its errno. */
interface Refusal {
  readonly name: string;
  readonly errno: string;
}

/**
 * Has the guest init try operations outside of a sandbox: src/guest/probe.c. Throws if it cannot be executed.
 */
export async function probe(what: 'calls' | 'mounts'): Promise<Refusal[]> {
  const { stdout, failure } = await runTool(initPath(), [what], { timeout: 30_000 });
  if (failure !== undefined) throw new Error(`${initPath()} ${what}: ${failure}`);
  return stdout.split('\n').flatMap((line) => {
    const [, name, errno] = /^(\w+) (\d+)$/.exec(line) ?? [];
    return name === undefined ? [] : [{ name, errno: errnoName(Number(errno)) }];
  });
}

/** `keyctl (EPERM), fsopen (ENOSYS)`. */
export function listed(refusals: readonly Refusal[]): string {
  return refusals.map(({ name, errno }) => `${name} (${errno})`).join(', ');
}
