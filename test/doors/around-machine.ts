/** Looks from the host at what serves machines: qemu, the two processes of the relay, virtiofsd. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { processes, type SeenProcess } from '../../scripts/crash/processes.ts';
import type { StatePaths } from '../../src/host/state/paths.ts';
import { domainPrefix } from '../../src/sandbox/domain/sandbox-record.ts';
import { capabilityNames } from '../../src/sandbox/policy/specification.ts';
import { limitsOf } from './outside.ts';
import { AROUND_MACHINES } from './table.ts';

export type MachineVerdict = Record<keyof typeof AROUND_MACHINES, string>;

/** The last look at each machine of a state that had all its parts, by the domain's name. */
export class MachineWatch implements Disposable {
  readonly seen = new Map<string, MachineVerdict>();
  readonly #paths: StatePaths;
  readonly #timer = setInterval(() => this.#look(), 500);

  constructor(paths: StatePaths) {
    this.#paths = paths;
  }

  #look(): void {
    const all = processes();
    const prefix = domainPrefix(this.#paths);
    for (const qemu of all) {
      const [, id] = new RegExp(`guest=${prefix}(\\w+)`).exec(qemu.command) ?? [];
      const relays = all.filter(
        ({ command }) =>
          id !== undefined && /kiln-relay \S*\/sandboxes\/(\w+) /.exec(command)?.[1] === id,
      );
      const outer = relays.find(({ parent }) => relays.every(({ pid }) => pid !== parent));
      const inner = relays.find(({ parent }) => parent === outer?.pid);
      const files = all.find(
        ({ parent, command }) => parent === inner?.pid && command.startsWith('virtiofsd'),
      );
      if (id === undefined || outer === undefined || inner === undefined || files === undefined)
        continue;
      // One that ends meanwhile was looked at before.
      try {
        this.seen.set(id, judgeMachine(qemu, outer, inner, files));
      } catch {}
    }
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}

/** Of proc_pid_status(5). */
function statusOf({ pid }: SeenProcess): (name: string) => string[] {
  const text = readFileSync(`/proc/${pid}/status`, 'utf8');
  if (/^State:\s+[ZX]/m.test(text)) throw new Error('it has ended');
  return (name) =>
    (new RegExp(`^${name}:[ \\t]*(.*)$`, 'm').exec(text)?.[1] ?? '').split(/\s+/).filter(Boolean);
}

function judgeMachine(
  qemu: SeenProcess,
  outer: SeenProcess,
  inner: SeenProcess,
  files: SeenProcess,
): MachineVerdict {
  const [base = 0, count = 0] = rangeOf(inner);
  const of = {
    qemu: statusOf(qemu),
    outer: statusOf(outer),
    inner: statusOf(inner),
    files: statusOf(files),
  };
  const privileges = (status: (name: string) => string[]) =>
    status('NoNewPrivs')[0] === '1' ? 'set' : 'not set';
  const filters = (status: (name: string) => string[]) =>
    ['none', 'a filter', 'two filters'][
      status('Seccomp')[0] === '2' ? Number(status('Seccomp_filters')[0]) : 0
    ] ?? 'more';
  const isUser = (status: (name: string) => string[], id: number) =>
    [...status('Uid'), ...status('Gid'), ...status('Groups')].every((it) => it === String(id));
  const root = 'root of the sandbox’s ids';
  return {
    'qemu: user': isUser(of.qemu, base + count - 1)
      ? AROUND_MACHINES['qemu: user']
      : of.qemu('Uid').join(' '),
    'qemu: capabilities': capabilities(of.qemu),
    'qemu: no_new_privs': privileges(of.qemu),
    'qemu: seccomp': filters(of.qemu),
    'qemu: memory': memoryOf(qemu),
    'qemu: core dumps': coreLimit(qemu),
    'qemu: devices': devicesOf(qemu),
    'qemu: namespaces': `${own(qemu).join(' and ')} of libvirt’s`,
    'relay, outer: capabilities': capabilities(of.outer),
    'relay, outer: no_new_privs': privileges(of.outer),
    'relay, inner: user': isUser(of.inner, base) ? root : of.inner('Uid').join(' '),
    'relay, inner: no_new_privs': privileges(of.inner),
    'relay, inner: seccomp': filters(of.inner),
    'relay, inner: namespaces': isAllOwn(inner),
    'virtiofsd: user': isUser(of.files, base) ? root : of.files('Uid').join(' '),
    'virtiofsd: capabilities': capabilities(of.files),
    'virtiofsd: no_new_privs': privileges(of.files),
    'virtiofsd: seccomp': filters(of.files),
    'virtiofsd: namespaces': isAllOwn(files),
    'virtiofsd: root': readdirSync(`/proc/${files.pid}/root/`).every((name) => /^\d+$/.test(name))
      ? 'the shares'
      : 'more',
    'relay and virtiofsd: memory': [outer, inner, files].every(
      ({ cgroup }) => limitsOf(cgroup).memory === 2 ** 30,
    )
      ? '1 GiB'
      : 'another limit',
  };
}

const MIB = 2 ** 20;

/** What visits ask for, and what a machine has whose visit asks for nothing. */
const ASKED: readonly number[] = [1024 * MIB, 2048 * MIB];

/** By what qemu was given as the guest's memory: what was asked for, and 96 MiB for its kernel. */
function memoryOf({ command, cgroup }: SeenProcess): string {
  const guest = Number(/ -m size=(\d+)k/.exec(command)?.[1]) * 1024;
  const asked = guest - 96 * MIB;
  const { memory } = limitsOf(cgroup);
  return ASKED.includes(asked) && memory === asked + 864 * MIB
    ? AROUND_MACHINES['qemu: memory']
    : `${memory} for a guest of ${guest}`;
}

/** First id on the host and count, of the user namespace that a process is in. */
function rangeOf({ pid }: SeenProcess): number[] {
  return readFileSync(`/proc/${pid}/uid_map`, 'utf8').trim().split(/\s+/).slice(1).map(Number);
}

function capabilities(status: (name: string) => string[]): string {
  const [permitted, effective] = [status('CapPrm')[0], status('CapEff')[0]];
  if (permitted !== effective) return `${permitted} and ${effective}`;
  return (
    capabilityNames(BigInt(`0x${permitted}`))
      .sort()
      .join(' ') || 'none'
  );
}

const KINDS = ['cgroup', 'ipc', 'mnt', 'net', 'pid', 'user', 'uts'];

/** Namespaces that it does not share with this test. */
function own({ pid }: SeenProcess): string[] {
  return KINDS.filter(
    (kind) => readlinkSync(`/proc/${pid}/ns/${kind}`) !== readlinkSync(`/proc/self/ns/${kind}`),
  );
}

function isAllOwn(process: SeenProcess): string {
  const found = own(process);
  return found.length === KINDS.length ? 'all its own' : found.join(' ');
}

function coreLimit({ pid }: SeenProcess): string {
  const [, soft, hard] =
    /^Max core file size\s+(\S+)\s+(\S+)/m.exec(readFileSync(`/proc/${pid}/limits`, 'utf8')) ?? [];
  // With 0 a program in core_pattern(5) gets to see a dump all the same.
  return soft === '1' && hard === '1' ? 'none' : `${soft} ${hard}`;
}

/** Those of /dev that it has open. */
function devicesOf({ pid }: SeenProcess): string {
  const open = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
  const names = open
    .filter((path) => path.startsWith('/dev/'))
    .map((path) => path.slice('/dev/'.length));
  return [...new Set(names)].sort().join(', ');
}
