import { readFileSync } from 'node:fs';
import { chmod, copyFile, readdir, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { ROOT_CAPABILITIES } from '../../src/sandbox/policy/specification.ts';
import { type SeccompFilter, seccompFilter } from '../../src/sandbox/seccomp/profile.ts';
import { ALL_CAPABILITIES, type BareCommand, BareSandbox } from '../support/bare-sandbox.ts';
import { type BusyboxState, IMAGE } from '../support/busybox-state.ts';
import { installFaultyInit } from '../support/faulty-init.ts';
import type { Attempt, Without } from './attempt.ts';

/** What came of an attempt: see probe.h. `how` is the symbol of errno, or `killed`. */
export interface Outcome {
  readonly outcome: 'through' | 'stopped' | 'absent';
  readonly how: string;
}

/** Compiles the probe, as static as it must be for any root. */
async function buildProbe(target: string): Promise<void> {
  const sources = (await readdir(import.meta.dirname)).filter((name) => name.endsWith('.c'));
  // Not position-independent: pointers for the 32-bit calls must be small.
  const flags = ['-std=gnu17', '-O1', '-Wall', '-static', '-no-pie', '-o', target];
  await execa({ cwd: import.meta.dirname })('cc', [...flags, ...sources]);
}

/** Puts the probe into the image of a state; gives the image's tree. */
export async function installProbe(state: BusyboxState): Promise<string> {
  const tree = join(state.paths.images, IMAGE, 'tree');
  const probe = join(tree, 'bin/probe');
  await buildProbe(probe);
  for (const name of ['setuid', 'capable']) await copyFile(probe, `${probe}-${name}`);
  await chmod(`${probe}-setuid`, 0o4755);
  await execa('setcap', ['cap_net_raw+ep', `${probe}-capable`]);
  await writeFile(join(tree, 'root-only'), 'secret\n', { mode: 0o600 });
  return tree;
}

/** What a probe prints, by verb. */
export function readOutcomes(text: string): Map<string, Outcome> {
  const lines = text.trim().split('\n');
  return new Map(
    lines.map((line) => {
      const [verb = '', outcome = '', how = ''] = line.split('\t');
      return [verb, { outcome: outcome as Outcome['outcome'], how }];
    }),
  );
}

/** What of the host a sandbox must not reach or see; the probe finds it by its environment. */
export interface HostServers extends AsyncDisposable {
  readonly environment: Readonly<Record<string, string>>;
}

/**
 * An address of this host that no sandbox has, to look for a route to: that of an interface, or one given
 * to it where it has none, as a machine without a network.
 */
async function ownAddress(): Promise<{ readonly address: string } & AsyncDisposable> {
  const all = Object.values(networkInterfaces()).flat();
  const own = all.find((it) => it !== undefined && it.family === 'IPv4' && !it.internal);
  if (own !== undefined) {
    return { address: own.address, [Symbol.asyncDispose]: () => Promise.resolve() };
  }
  const address = '198.51.100.1'; // TEST-NET-2
  const change = (what: 'add' | 'delete') =>
    execa('ip', ['address', what, `${address}/32`, 'dev', 'lo'], { reject: false });
  await change('add');
  return { address, [Symbol.asyncDispose]: async () => void (await change('delete')) };
}

export async function hostServers(): Promise<HostServers> {
  const abstract = `kiln-escape-${process.pid}`;
  const listen = (server: Server, where: { port: number; host: string } | { path: string }) =>
    new Promise<void>((resolve) => server.listen(where, resolve));
  const servers = [createServer((socket) => socket.end()), createServer((socket) => socket.end())];
  const [tcp, unix] = servers as [Server, Server];
  await listen(tcp, { port: 0, host: '127.0.0.1' });
  await listen(unix, { path: `\0${abstract}` });
  const { port } = tcp.address() as { port: number };
  const { stdout: made } = await execa('ipcmk', ['--shmem', '4096']);
  const segment = /\d+/.exec(made)?.[0] ?? '';
  const { stdout: list } = await execa('ipcs', ['-m']);
  const key = list
    .split('\n')
    .find((line) => line.split(/\s+/)[1] === segment)
    ?.split(/\s+/)[0];
  const seen = `kiln-escape-seen-${process.pid}`;
  const other = execa('sleep', ['3600'], { argv0: seen, reject: false });
  const route = await ownAddress();
  return {
    environment: {
      PROBE_PORT: String(port),
      PROBE_ABSTRACT: abstract,
      PROBE_SHM: key ?? '',
      PROBE_PROCESS: seen,
      PROBE_ROUTE: route.address,
      PROBE_INOTIFY: readFileSync('/proc/sys/fs/inotify/max_user_instances', 'utf8').trim(),
      PROBE_WATCHES: readFileSync('/proc/sys/fs/inotify/max_user_watches', 'utf8').trim(),
    },
    [Symbol.asyncDispose]: async () => {
      other.kill();
      await Promise.all([other, route[Symbol.asyncDispose]()]);
      for (const server of servers) server.close();
      await execa('ipcrm', ['-m', segment]);
    },
  };
}

/** The same attempts without what stops them. Sandboxes that share a lack share a sandbox. */
export async function runWithout(
  state: BusyboxState,
  tree: string,
  without: Without,
  attempts: readonly Attempt[],
  environment: Readonly<Record<string, string>>,
): Promise<Map<string, Outcome>> {
  const verbs = attempts.map(({ verb }) => verb);
  if (without === 'sandbox') {
    const options = { env: environment, stdin: 'ignore', reject: false } as const;
    return readOutcomes((await execa(join(tree, 'bin/probe'), verbs, options)).stdout);
  }
  const faults = FAULTS[without];
  if (faults !== undefined) {
    const init = await installFaultyInit(state.paths);
    await init.leaveOut(...faults);
  }
  await using sandbox = await BareSandbox.open(state, tree, {
    ...(without === 'proc' || without === 'bare' ? { without: OPEN } : {}),
    network: without === 'network' ? 'host' : 'private',
  });
  const user = attempts.every(({ as }) => as === 'user') && without !== 'user' ? '1000' : '0';
  const seccomp = await seccompFilter(state.paths, 'default', commandCapabilities(without, user));
  const text = await sandbox.run(['/bin/probe', ...verbs], {
    ...bareCommand(without, user, seccomp),
    environment: variables(environment),
  });
  return readOutcomes(text);
}

/** As execve(2) takes them. */
export function variables(environment: Readonly<Record<string, string>>): string[] {
  return Object.entries(environment).map(([name, value]) => `${name}=${value}`);
}

/** What the init of src/guest leaves out, by the names it has for it. */
const FAULTS: Partial<Record<Without, readonly string[]>> = {
  descriptors: ['descriptors', 'rights-unchecked'],
  'old-root': ['old-root', 'mounts-unchecked'],
  'new-privileges': ['no_new_privs', 'nosuid-unchecked', 'capabilities', 'rights-unchecked'],
  'cgroup-namespace': ['cgroup-unchecked'],
  terminals: ['terminals', 'mounts-unchecked'],
};

const BEHIND_LANDLOCK: readonly Without[] = [
  ...(['seccomp', 'proc', 'user', 'limits', 'descriptors', 'old-root'] as const),
];

/** What a sandbox is not asked for whose /proc is as the kernel makes it, and that may make namespaces. */
export const OPEN = ['mask', 'readonly', 'user-limit'] as const;

function commandCapabilities(without: Without, user: string) {
  if (without === 'rights' || without === 'bare') return ALL_CAPABILITIES;
  return user === '0' ? ROOT_CAPABILITIES : [];
}

function bareCommand(without: Without, user: string, seccomp: SeccompFilter): BareCommand {
  const capabilities = commandCapabilities(without, user);
  const noFilter = ['seccomp', 'rights', 'walls', 'bare', 'new-privileges'].includes(without);
  return {
    user,
    capabilities,
    ...(noFilter ? {} : { seccomp }),
    landlock: BEHIND_LANDLOCK.includes(without) ? ['files'] : [],
  };
}
