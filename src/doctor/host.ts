import { accessSync, constants, existsSync } from 'node:fs';
import { glob, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoName } from '../host/calls/libc.ts';
import { embeddedFiles } from '../host/libvirt/embedded/files.ts';
import { homeOf } from '../host/libvirt/embedded/launch.ts';
import { pickEngine } from '../host/libvirt/pick-engine.ts';
import { runTool } from '../host/process/child-process.ts';
import { hasSystemd } from '../host/process/process.ts';
import { patience } from '../host/process/wait-for.ts';
import { packageRoot } from '../host/state/package-root.ts';
import type { StatePaths } from '../host/state/paths.ts';

const INSTALL = { debian: 'apt-get install', fedora: 'dnf install', suse: 'zypper install' };

type Family = keyof typeof INSTALL;

/** Of os-release's ID and ID_LIKE (os-release(5)). */
const FAMILY_WORDS: Readonly<Record<string, Family>> = {
  debian: 'debian',
  ubuntu: 'debian',
  fedora: 'fedora',
  rhel: 'fedora',
  centos: 'fedora',
  suse: 'suse',
  opensuse: 'suse',
};

interface MissingNeed {
  readonly what: string;
  readonly package: string | undefined;
}

export type Host = Awaited<ReturnType<typeof readHost>>;

export async function readHost(env: NodeJS.ProcessEnv) {
  const text = await readFile('/etc/os-release', 'utf8').catch(() => '');
  const field = (name: string) => new RegExp(`^${name}="?([^"\n]*)`, 'm').exec(text)?.[1] ?? '';
  const words = `${field('ID')} ${field('ID_LIKE')}`.split(/[\s-]+/);
  const family = words.map((word) => FAMILY_WORDS[word]).find((known) => known !== undefined);
  const known = family ?? 'debian';
  return {
    name: field('PRETTY_NAME') || 'unknown Linux',
    family: known,
    missing: (uses: readonly string[]) => missingNeeds(uses, known, env),
    install: (packages: readonly string[]) => `${INSTALL[known]} ${packages.join(' ')}`,
  };
}

function hasCommand(name: string, env: NodeJS.ProcessEnv): boolean {
  return (env.PATH ?? '').split(':').some((folder) => {
    try {
      accessSync(join(folder, name), constants.X_OK);
      return folder.startsWith('/');
    } catch {
      return false;
    }
  });
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
    const [, kind = '', what = ''] = /^([^:]*):?(.*)$/.exec(need) ?? [];
    if (await isMet(kind, what, libraries, env)) continue;
    const name = packages[Object.keys(INSTALL).indexOf(family)];
    missing.push({ what: what.split(',', 1).join(), package: name === '-' ? undefined : name });
  }
  return missing;
}

async function isMet(
  kind: string,
  what: string,
  libraries: ReadonlySet<string>,
  env: NodeJS.ProcessEnv,
): Promise<boolean> {
  if (kind === 'command') return hasCommand(what, env);
  if (kind === 'library') return libraries.has(what);
  for await (const _ of glob(what.split(','))) return true;
  return false;
}

async function knownLibraries(): Promise<Set<string>> {
  const { stdout } = await runTool('ldconfig', ['-p'], {
    env: { PATH: '/usr/sbin:/sbin:/usr/bin:/bin' },
  });
  return new Set(stdout.split('\n').map((line) => line.trim().split(' ')[0] ?? ''));
}

export function initPath(): string {
  return join(packageRoot(), 'dist/kiln-init');
}

/** What Node needs to start is a measure of the machine: one that is emulated, or busy, needs many times as long. */
const PER_START = 200;

/** Less than usual, because the caller wants to know what is wrong, ms. */
export function libvirtPatience(started = performance.nodeTiming.bootstrapComplete): number {
  return Math.min(Math.max(10_000, PER_START * started), patience());
}

interface Refusal {
  readonly name: string;
  readonly errno: string;
}

/** Outside of a sandbox: src/guest/probe.c. Throws if the guest init cannot be executed. */
export async function probe(what: 'calls' | 'mounts'): Promise<Refusal[]> {
  const { stdout, failure } = await runTool(initPath(), [what], { timeout: 30_000 });
  if (failure !== undefined) throw new Error(`${initPath()} ${what}: ${failure}`);
  return stdout.split('\n').flatMap((line) => {
    const [, name, errno] = /^(\w+) (\d+)$/.exec(line) ?? [];
    return name === undefined ? [] : [{ name, errno: errnoName(Number(errno)) }];
  });
}

export function listed(refusals: readonly Refusal[]): string {
  return refusals.map(({ name, errno }) => `${name} (${errno})`).join(', ');
}

export interface HostFile {
  readonly path: string;
  readonly purpose: string;
  readonly lives: string;
  readonly exists: boolean;
}

export async function hostFiles(paths: StatePaths, env: NodeJS.ProcessEnv): Promise<HostFile[]> {
  const engine = pickEngine(paths, env);
  const embedded = embeddedFiles(paths);
  const boot = 'until the next boot';
  const places: HostFile[] = [];
  const add = (path: string, purpose: string, lives: string) =>
    places.push({ path, purpose, lives, exists: existsSync(path) });
  add(paths.hostRun, 'sockets and locks, one folder a KILN_STATE', boot);
  add(paths.run, 'sockets and locks of this KILN_STATE', boot);
  add(join(paths.hostRun, 'ranges'), 'which sandbox has which ids', boot);
  if (engine.kind === 'embedded') {
    const idle = 'until the embedded libvirtd ends';
    add(embedded.run, 'files of the embedded libvirtd', idle);
    for (const path of (await homeOf(embedded)).joined) {
      add(path, 'cgroup of the embedded libvirtd and its sandboxes', idle);
    }
    const unit = `/run/systemd/transient/${embedded.name}.service`;
    if (hasSystemd()) add(unit, 'the unit of the embedded libvirtd', idle);
  } else {
    add('/run/libvirt/lxc', 'the system libvirtd: running sandboxes', 'with the sandbox');
    add('/var/log/libvirt/lxc', 'the system libvirtd: a log for each sandbox', 'until deleted');
  }
  return places;
}
