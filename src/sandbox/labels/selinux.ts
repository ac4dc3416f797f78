import { randomInt } from 'node:crypto';
import { openSync, readFileSync, readSync, writeFileSync, writeSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { attempt } from '../../host/calls/libc.ts';
import { packageRoot } from '../../host/state/package-root.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { type Owner, reserve } from '../../host/state/reservation.ts';
import { shellWord } from '../../shell-words.ts';
import type { LabelRequest } from '../policy/label-request.ts';
import {
  labelMissingError,
  ownLabel,
  type SandboxLabels,
  securityModule,
  selinuxEnforces,
} from './module.ts';

/**
 * The types of kiln's policy module, policy/kiln.cil. `init` may mount and become one of the others. `command`
 * may do what every container of the policy may, except mount. `nested` may mount, too. `qemu` is that of machines.
 */
const TYPES = {
  init: 'kiln_init_t',
  command: 'kiln_t',
  nested: 'kiln_nested_t',
  qemu: 'kiln_qemu_t',
} as const;

/** The type of containers' files in Debian's and Fedora's policy; podman uses it as well. */
const FILE_TYPE = 'container_file_t';

/** Files that containers may read and execute but not write; podman's images have it, too. */
const IMAGE_TYPE = 'container_ro_file_t';

/** The context of libvirt's controller of a sandbox, which starts the init, in Debian's and Fedora's policy. */
const CONTROLLER = 'system_u:system_r:virtd_lxc_t:s0';

export function processContext(type: keyof typeof TYPES, pair: Pair): string {
  return `system_u:system_r:${TYPES[type]}:s0:${pair}`;
}

export function fileContext(level: string): string {
  return `system_u:object_r:${FILE_TYPE}:${level}`;
}

export const IMAGE_CONTEXT = `system_u:object_r:${IMAGE_TYPE}:s0`;

function levelOf(context: string): string {
  const [, level] = /^[^:]+:[^:]+:[^:]+:(.+)$/.exec(context) ?? [];
  if (level !== undefined) return level;
  throw new KilnError('E_ARGUMENT', `not a context of SELinux: ${context}`, {
    hint: 'such as system_u:system_r:kiln_t:s0:c1,c2',
  });
}

function atLevel(context: string, level: string): string {
  return context.slice(0, -levelOf(context).length) + level;
}

export function policyModule(): string {
  return shellWord(join(packageRoot(), 'policy/kiln.cil'));
}

export function isValidContext(context: string): boolean {
  const taken = attempt(() => {
    writeFileSync('/sys/fs/selinux/context', context, { flag: 'r+' });
    return true;
  });
  return taken === true;
}

export function requireContext(context: string): void {
  if (isValidContext(context)) return;
  const own = isValidContext(processContext('init', 'c0,c1'));
  throw new KilnError('E_LAYER_MISSING', `SELinux’ policy knows no context ${context}`, {
    hint: own
      ? '`seinfo -t` lists the types of the policy'
      : `load kiln’s module: semodule -i ${policyModule()}`,
    details: { layer: 'selinux' },
  });
}

/**
 * Of those of a policy with MCS, c0 to c1023 in Debian's and Fedora's, the ones with three digits: all labels are as
 * long, and one takes the place of another in the header of a saved machine.
 */
const CATEGORIES = { from: 100, to: 1000 };

/** How many of 404,550 pairs are tried before kiln gives up. */
const ATTEMPTS = 10_000;

/** Two categories, as in a level `s0:PAIR`: `c12,c345`, the smaller one first. */
export type Pair = string;

export function pairDirectory(paths: StatePaths): string {
  return join(paths.hostRun, 'mcs');
}

function randomPair(): Pair {
  const { from, to } = CATEGORIES;
  const first = randomInt(from, to);
  const other = randomInt(from, to - 1);
  const second = other < first ? other : other + 1;
  return `c${Math.min(first, second)},c${Math.max(first, second)}`;
}

/**
 * A pair of categories that nobody on this host has: no sandbox or service of any state directory, no other
 * process. Labels with different pairs have no access to each other. Throws E_NO_MCS.
 */
export async function allocatePair(paths: StatePaths, owner: Owner): Promise<Pair> {
  const directory = pairDirectory(paths);
  const seen = await pairsOfProcesses();
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const pair = randomPair();
    if (seen.has(pair)) continue;
    if (await reserve(directory, pair, owner)) return pair;
  }
  throw new KilnError('E_NO_MCS', `no pair of categories is free after ${ATTEMPTS} attempts`, {
    hint: 'see `kiln ps`; `kiln gc` destroys what nobody owns any more',
  });
}

export function pairOf(context: string): Pair | undefined {
  return /:(c\d+,c\d+)$/.exec(context)?.[1];
}

async function pairsOfProcesses(): Promise<Set<Pair>> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const labels = await Promise.all(
    pids.map((pid) => readFile(`/proc/${pid}/attr/current`, 'latin1').catch(() => '')),
  );
  const pairs = labels.map((label) => pairOf(label.replace(/[\0\n]+$/, '')));
  return new Set(pairs.filter((pair) => pair !== undefined));
}

export function requirePolicy(request: LabelRequest): void {
  if (request.kind === 'none' || securityModule() !== 'selinux') return;
  requireContext(processContext('init', 'c0,c1'));
}

export async function selinuxLabels(
  paths: StatePaths,
  request: Exclude<LabelRequest, { kind: 'none' }>,
  owner: Owner,
): Promise<SandboxLabels> {
  if (request.kind === 'inherit') {
    const whole = ownLabel('selinux') ?? '';
    // Of a range `low-high` kiln keeps the low level (relabel.ts): files have one level.
    const [level = 's0'] = levelOf(whole).split('-');
    const own = atLevel(whole, level);
    if (selinuxEnforces() && !mayTransition(CONTROLLER, own)) {
      throw labelMissingError(
        `--label inherit: SELinux’ policy does not let ${CONTROLLER} start a sandbox as ${own}`,
        'leave the option away to have kiln’s types, or name one with `static:`',
      );
    }
    const files = fileContext(level);
    return { module: 'selinux', init: own, command: own, nested: own, files };
  }
  if (request.kind === 'static') {
    const level = levelOf(request.label);
    requireContext(request.label);
    const pair = pairOf(request.label);
    // Another sandbox may have the pair; the caller asked for exactly this label.
    const reserved = pair !== undefined && (await reserve(pairDirectory(paths), pair, owner));
    return {
      module: 'selinux',
      init: atLevel(processContext('init', ''), level),
      command: request.label,
      nested: request.label,
      files: fileContext(level),
      ...(reserved ? { pair } : {}),
    };
  }
  const base = request.kind === 'dynamic' ? request.label : undefined;
  requirePolicy(request);
  if (base !== undefined) requireContext(base);
  const pair = await allocatePair(paths, owner);
  const of = (type: 'command' | 'nested') =>
    base === undefined ? processContext(type, pair) : atLevel(base, `s0:${pair}`);
  return {
    module: 'selinux',
    init: processContext('init', pair),
    command: of('command'),
    nested: of('nested'),
    files: fileContext(`s0:${pair}`),
    pair,
  };
}

const SELINUX = '/sys/fs/selinux';

/** The kernel's answer has six numbers: security/selinux/selinuxfs.c, sel_write_access. */
const ANSWER_BYTES = 256;

function numberIn(path: string): number {
  return Number(readFileSync(`${SELINUX}/class/process/${path}`, 'latin1'));
}

function mayTransition(from: string, to: string): boolean {
  using file = closing(openSync(`${SELINUX}/access`, 'r+'));
  writeSync(file.fd, `${from} ${to} ${numberIn('index')}`);
  const answer = Buffer.alloc(ANSWER_BYTES);
  const [allowed = ''] = answer.toString('latin1', 0, readSync(file.fd, answer)).split(' ');
  return ((Number.parseInt(allowed, 16) >>> (numberIn('perms/transition') - 1)) & 1) === 1;
}
