import { readlinkSync } from 'node:fs';
import type { KilnError } from '../errors.ts';
import { type Capability, capabilityNames } from './capabilities.ts';
import type { IdRange } from './id-range.ts';
import type { BoxLabels } from './labels/labels.ts';
import { type MeasuredLabel, measuredLabel } from './labels/measure.ts';
import { layerMissing } from './layers.ts';
import { decodeWalls, type LandlockWall, type ProcRule } from './protocol/exec.ts';
import type { SetupOperation } from './protocol/setup.ts';

/** A mount as the box sees it. */
interface MeasuredMount {
  readonly path: string;
  readonly type: string;
  readonly options: readonly string[];
}

/** What the guest init found when it looked at its own box, before the first command. */
export interface BoxFacts {
  /** Namespaces that are not the host's. */
  readonly namespaces: readonly string[];
  /** First id inside, first id outside, count. */
  readonly uidMap: readonly [number, number, number];
  readonly gidMap: readonly [number, number, number];
  readonly interfaces: readonly string[];
  readonly mounts: readonly MeasuredMount[];
  /** Paths that show nothing. */
  readonly masked: readonly string[];
  /** Paths of the host's kernel that cannot be written to. */
  readonly readonlyPaths: readonly string[];
  /** Names in /dev. */
  readonly devices: readonly string[];
  /** How many namespaces of each kind the box may still make; null where nothing limits them. */
  readonly namespaceLimit: number | null;
  /** The init's; null on a host without SELinux and AppArmor. */
  readonly initLabel: MeasuredLabel | null;
}

/** What was in force on a command when it was about to start, read from its /proc/self/status. */
export interface CommandFacts {
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
  readonly noNewPrivileges: boolean;
  /** `filter`, `strict` or `none`. */
  readonly seccomp: 'none' | 'strict' | 'filter';
  /** SELinux' or AppArmor's; null on a host without either. */
  readonly label: MeasuredLabel | null;
  /** Landlock's walls, each tried; null without Landlock. */
  readonly landlock: { readonly abi: number; readonly walls: readonly LandlockWall[] } | null;
  readonly capabilities: {
    readonly bounding: readonly Capability[];
    readonly effective: readonly Capability[];
  };
}

/** Namespaces every box has of its own. `net` is checked apart: it may be asked to be the host's. */
const REQUIRED = ['cgroup', 'ipc', 'mnt', 'pid', 'user', 'uts'];

function parseLines(facts: string): Map<string, string[]> {
  const lines = new Map<string, string[]>();
  for (const line of facts.split('\n')) {
    const equals = line.indexOf('=');
    if (equals < 0) continue;
    const name = line.slice(0, equals);
    const values = lines.get(name);
    if (values === undefined) lines.set(name, [line.slice(equals + 1)]);
    else values.push(line.slice(equals + 1));
  }
  return lines;
}

function notMeasured(layer: string, found: string): KilnError {
  return layerMissing(layer, found);
}

/** What a box was to be, for {@link readBoxFacts} to compare it with. */
export interface BoxPlan {
  readonly network: 'own' | 'host';
  readonly range: IdRange;
  readonly operations: readonly SetupOperation[];
  /** A time namespace is wanted, too. */
  readonly time: boolean;
  readonly labels: BoxLabels | undefined;
}

/**
 * Reads the facts of a `ready` answer and compares them with the host and the plan. Throws
 * E_LAYER_MISSING when a namespace is the host's, ids are not those of the box, or something that
 * was to be hidden or closed is not on the init's list of what it found hidden and closed.
 */
export function readBoxFacts(text: string, plan: BoxPlan): BoxFacts {
  const lines = parseLines(text);
  const all = (name: string) => lines.get(name) ?? [];
  const namespaces: string[] = [];
  for (const link of all('ns')) {
    const name = link.slice(0, link.indexOf(':'));
    if (readlinkSync(`/proc/self/ns/${name}`) !== link) namespaces.push(name);
  }
  const required = [
    ...REQUIRED,
    ...(plan.network === 'own' ? ['net'] : []),
    ...(plan.time ? ['time'] : []),
  ];
  for (const name of required) {
    if (!namespaces.includes(name)) throw notMeasured(`${name}-namespace`, 'it is the host’s');
  }
  const map = (name: string): [number, number, number] => {
    const [inside = -1, outside = -1, count = -1] = (all(name)[0] ?? '').split(' ').map(Number);
    if (inside !== 0 || outside !== plan.range.base || count !== plan.range.count) {
      throw notMeasured('user-namespace', `${name} is ${inside} ${outside} ${count}`);
    }
    return [inside, outside, count];
  };
  const mounts = all('mount').map((line) => {
    const [type = '', options = '', ...path] = line.split(' ');
    return { path: path.join(' '), type, options: options.split(',') };
  });
  const limit = all('namespace_limit')[0];
  const facts: BoxFacts = {
    namespaces,
    uidMap: map('uid_map'),
    gidMap: map('gid_map'),
    interfaces: all('interface'),
    mounts,
    masked: all('mask'),
    readonlyPaths: all('readonly'),
    devices: all('device'),
    namespaceLimit: limit === undefined ? null : Number(limit),
    initLabel: measuredLabel(all('init_label')[0], planned(plan.labels, 'init')),
  };
  comparePlan(facts, plan.operations);
  return facts;
}

function comparePlan(facts: BoxFacts, operations: readonly SetupOperation[]): void {
  for (const operation of operations) {
    if (operation.op === 'mask' && !facts.masked.includes(operation.path)) {
      throw notMeasured('masked-paths', operation.path);
    }
    if (operation.op === 'readonly' && !facts.readonlyPaths.includes(operation.path)) {
      throw notMeasured('read-only-paths', operation.path);
    }
    if (operation.op === 'namespaces' && facts.namespaceLimit !== operation.most) {
      throw notMeasured('namespace-limit', String(facts.namespaceLimit));
    }
  }
}

/** The label that the init, or a command, was to have. */
function planned(labels: BoxLabels | undefined, whose: 'init' | 'command') {
  return labels && { module: labels.module, label: labels[whose] };
}

/** What a command was to have and not to have. */
export interface CommandPlan {
  /** As {@link CommandPolicy} has it: only a number can be compared. */
  readonly user: string;
  readonly capabilities: bigint;
  readonly seccomp: boolean;
  readonly landlock: readonly LandlockWall[];
  readonly labels: BoxLabels | undefined;
  /** How the /proc of its own is closed that a system has. */
  readonly boot: readonly ProcRule[];
}

/**
 * Reads the facts of a `started` answer. Throws E_LAYER_MISSING when something that was to be
 * dropped is still there.
 */
export function readCommandFacts(text: string, expected: CommandPlan): CommandFacts {
  const lines = parseLines(text);
  const first = (name: string) => lines.get(name)?.[0] ?? '';
  const mask = (name: string) => {
    if (!/^[0-9a-f]+$/.test(first(name))) throw notMeasured('capabilities', `${name} unknown`);
    return BigInt(`0x${first(name)}`);
  };
  const bounding = mask('CapBnd');
  const effective = mask('CapEff');
  for (const name of ['CapBnd', 'CapPrm', 'CapEff', 'CapInh', 'CapAmb']) {
    if ((mask(name) & ~expected.capabilities) !== 0n) {
      throw notMeasured('capabilities', `${name} is ${first(name)}`);
    }
  }
  const wanted = expected.user === 'root' ? '0' : expected.user.split(':')[0];
  const uids = first('Uid').split('\t');
  if (/^\d+$/.test(wanted ?? '') && uids.some((uid) => uid !== wanted)) {
    throw notMeasured('user', `uids are ${uids.join(' ')}`);
  }
  if (first('NoNewPrivs') !== '1') throw notMeasured('no_new_privs', first('NoNewPrivs'));
  const seccomp = (['none', 'strict', 'filter'] as const)[Number(first('Seccomp'))] ?? 'none';
  if (expected.seccomp && seccomp !== 'filter') throw notMeasured('seccomp', seccomp);
  const abi = Number(first('landlock'));
  const walls = decodeWalls(Number(first('walls')));
  for (const wall of expected.landlock) {
    if (!(abi >= 1 && walls.includes(wall))) throw notMeasured('landlock', `no wall: ${wall}`);
  }
  if (first('descriptors') !== '0') {
    throw notMeasured('descriptors', `${first('descriptors')} beside stdin, stdout and stderr`);
  }
  for (const { path, rule } of expected.boot) {
    if (!lines.get(rule)?.includes(path)) throw notMeasured('boot', `${path} is not closed`);
  }
  return {
    uid: Number(first('Uid').split('\t')[0]),
    gid: Number(first('Gid').split('\t')[0]),
    groups: first('Groups').split(' ').filter(Boolean).map(Number),
    noNewPrivileges: true,
    seccomp,
    label: measuredLabel(lines.get('label')?.[0], planned(expected.labels, 'command')),
    landlock: abi >= 1 ? { abi, walls } : null,
    capabilities: {
      bounding: capabilityNames(bounding),
      effective: capabilityNames(effective),
    },
  };
}
