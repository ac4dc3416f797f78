import { readlinkSync } from 'node:fs';
import type { Capability } from '../../host/process/process.ts';
import type { IdRange } from '../../host/state/reservation.ts';
import {
  type MeasuredLabel,
  measuredLabel,
  plannedLabel,
  type SandboxLabels,
} from '../labels/module.ts';
import { layerMissingError } from '../policy/layers.ts';
import { capabilityNames } from '../policy/specification.ts';
import type { LandlockWall, ProcRule, ResourceLimit } from '../wire/codec.ts';
import { FIELDS, type SetupOperation } from '../wire/table.ts';

interface MeasuredMount {
  readonly path: string;
  readonly type: string;
  readonly options: readonly string[];
}

/** What was planned, as the init found it. */
interface PlannedFacts {
  readonly masked: readonly string[];
  readonly readonlyPaths: readonly string[];
  readonly readonlyBinds: readonly string[];
  /** Binds that are written to a layer of their own. */
  readonly layeredBinds: readonly string[];
  /** Of /proc/sys/user, by file. */
  readonly userLimits: Readonly<Record<string, number>>;
}

export interface SandboxFacts extends PlannedFacts {
  readonly namespaces: readonly string[];
  /** First id inside, first id outside, count. */
  readonly uidMap: readonly [number, number, number];
  readonly gidMap: readonly [number, number, number];
  readonly interfaces: readonly string[];
  readonly mounts: readonly MeasuredMount[];
  readonly devices: readonly string[];
  readonly initLabel: MeasuredLabel | null;
}

/** `net` is checked separately, because a job may ask for the host's. */
const REQUIRED = ['cgroup', 'ipc', 'mnt', 'pid', 'user', 'uts'];

export interface ExpectedFacts {
  readonly network: 'own' | 'host';
  readonly range: IdRange;
  readonly operations: readonly SetupOperation[];
  readonly time: boolean;
  readonly labels: SandboxLabels | undefined;
  /** The namespaces around the sandbox; this process's by default. */
  readonly around?: ReadonlyMap<string, string> | undefined;
}

/**
 * Throws E_LAYER_MISSING when a namespace is the host's, the ids are not the sandbox's, or a path that must be
 * hidden or closed is not on the init's list of hidden and closed paths.
 */
export function readSandboxFacts(text: string, plan: ExpectedFacts): SandboxFacts {
  const lines = factLines(text);
  const all = (name: string) => lines.get(name) ?? [];
  const namespaces: string[] = [];
  for (const link of all('ns')) {
    const name = link.slice(0, link.indexOf(':'));
    const around = plan.around === undefined ? ownNamespace(name) : plan.around.get(name);
    if (around !== link) namespaces.push(name);
  }
  const required = [
    ...REQUIRED,
    ...(plan.network === 'own' ? ['net'] : []),
    ...(plan.time ? ['time'] : []),
  ];
  for (const name of required) {
    if (!namespaces.includes(name))
      throw layerMissingError(`${name}-namespace`, 'it is the host’s');
  }
  const map = (name: string): [number, number, number] => {
    const [inside = -1, outside = -1, count = -1] = (all(name)[0] ?? '').split(' ').map(Number);
    if (inside !== 0 || outside !== plan.range.base || count !== plan.range.count) {
      throw layerMissingError('user-namespace', `${name} is ${inside} ${outside} ${count}`);
    }
    return [inside, outside, count];
  };
  const mounts = all('mount').map((line) => {
    const [type = '', options = '', ...path] = line.split(' ');
    return { path: path.join(' '), type, options: options.split(',') };
  });
  const measured = {
    namespaces,
    uidMap: map('uid_map'),
    gidMap: map('gid_map'),
    interfaces: all('interface'),
    mounts,
    masked: all('mask'),
    readonlyPaths: all('readonly'),
    readonlyBinds: all('bind_readonly'),
    layeredBinds: all('layer'),
    devices: all('device'),
    userLimits: Object.fromEntries(
      all('user_limit').map((line) => {
        const [name = '', value] = line.split(' ');
        return [name, Number(value)];
      }),
    ),
  };
  comparePlan(measured, plan.operations);
  const initLabel = measuredLabel(all('init_label')[0], plannedLabel(plan.labels, 'init'));
  return { ...measured, initLabel };
}

const own = new Map<string, string>();

/** This process never changes its namespaces. Throws where the kernel has no such kind. */
function ownNamespace(name: string): string {
  const link = own.get(name) ?? readlinkSync(`/proc/self/ns/${name}`);
  own.set(name, link);
  return link;
}

function comparePlan(facts: PlannedFacts, operations: readonly SetupOperation[]): void {
  for (const operation of operations) {
    if (operation.op === 'mask' && !facts.masked.includes(operation.path)) {
      throw layerMissingError('masked-paths', operation.path);
    }
    if (operation.op === 'readonly' && !facts.readonlyPaths.includes(operation.path)) {
      throw layerMissingError('read-only-paths', operation.path);
    }
    const isReadonlyBind =
      (operation.op === 'bind' && operation.access === 'readonly') ||
      (operation.op === 'guest-bind' && operation.readonly);
    if (isReadonlyBind && !facts.readonlyBinds.includes(operation.path)) {
      throw layerMissingError('binds', `${operation.path} can be written to`);
    }
    if (
      operation.op === 'bind' &&
      operation.access === 'cow' &&
      !facts.layeredBinds.includes(operation.path)
    ) {
      throw layerMissingError('binds', `${operation.path} has no layer of its own`);
    }
    if (operation.op === 'user-limit') {
      const found = facts.userLimits[operation.name] ?? Number.POSITIVE_INFINITY;
      if (!(found <= operation.most)) {
        throw layerMissingError('user-limits', `${operation.name} is ${found}`);
      }
    }
  }
}

export function factLines(facts: string): Map<string, string[]> {
  const lines = facts.split('\n').filter((line) => line.includes('='));
  const named = Map.groupBy(lines, (line) => line.slice(0, line.indexOf('=')));
  const values = ([name, all]: [string, string[]]) =>
    [name, all.map((line) => line.slice(name.length + 1))] as const;
  return new Map([...named].map(values));
}

export interface CommandFacts {
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
  readonly noNewPrivileges: boolean;
  readonly seccomp: 'none' | 'strict' | 'filter';
  readonly label: MeasuredLabel | null;
  readonly landlock: { readonly abi: number; readonly walls: readonly LandlockWall[] } | null;
  /** Always true where the command can write to files of the host. */
  readonly setIdRefused: boolean;
  readonly capabilities: {
    readonly bounding: readonly Capability[];
    readonly effective: readonly Capability[];
  };
}

const WALLS: readonly LandlockWall[] = ['files', 'no-tcp', 'abstract-sockets'];

export interface ExpectedCommand {
  readonly user: string;
  readonly capabilities: bigint;
  readonly landlock: readonly LandlockWall[];
  readonly openSockets: boolean;
  readonly limits: readonly ResourceLimit[];
  readonly labels: SandboxLabels | undefined;
  readonly boot: readonly ProcRule[];
}

export function readCommandFacts(text: string, expected: ExpectedCommand): CommandFacts {
  const lines = factLines(text);
  const first = (name: string) => lines.get(name)?.[0] ?? '';
  const mask = (name: string) => {
    if (!/^[0-9a-f]+$/.test(first(name)))
      throw layerMissingError('capabilities', `${name} unknown`);
    return BigInt(`0x${first(name)}`);
  };
  const bounding = mask('CapBnd');
  const effective = mask('CapEff');
  for (const name of ['CapBnd', 'CapPrm', 'CapEff', 'CapInh', 'CapAmb']) {
    if ((mask(name) & ~expected.capabilities) !== 0n) {
      throw layerMissingError('capabilities', `${name} is ${first(name)}`);
    }
  }
  const wanted = expected.user === 'root' ? '0' : expected.user.split(':')[0];
  const uids = first('Uid').split('\t');
  if (/^\d+$/.test(wanted ?? '') && uids.some((uid) => uid !== wanted)) {
    throw layerMissingError('user', `uids are ${uids.join(' ')}`);
  }
  if (first('NoNewPrivs') !== '1') throw layerMissingError('no_new_privs', first('NoNewPrivs'));
  const seccomp = (['none', 'strict', 'filter'] as const)[Number(first('Seccomp'))] ?? 'none';
  if (seccomp !== 'filter') throw layerMissingError('seccomp', seccomp);
  const abi = Number(first('landlock'));
  const bits = Number(first('walls'));
  const walls = WALLS.filter((wall) => (bits & FIELDS.landlock.parts.walls.of[wall]) !== 0);
  for (const wall of expected.landlock) {
    if (!(abi >= 1 && walls.includes(wall)))
      throw layerMissingError('landlock', `no wall: ${wall}`);
  }
  // Both depend on what the init found the sandbox to be, not on what was asked for.
  const closed = first('network') === 'own' || walls.includes('abstract-sockets');
  if (!closed && !expected.openSockets) {
    throw layerMissingError('abstract-sockets', 'those of the host can be reached');
  }
  const setIdRefused = first('set_id') === 'refused';
  if (!setIdRefused && first('host_files') !== '0') {
    throw layerMissingError('set-id', 'set-id files can be made on the host');
  }
  if (first('descriptors') !== '0') {
    throw layerMissingError(
      'descriptors',
      `${first('descriptors')} beside stdin, stdout and stderr`,
    );
  }
  for (const { resource, soft, hard } of expected.limits) {
    const [, foundSoft, foundHard] = (lines.get('rlimit') ?? [])
      .map((line) => line.split(' ').map(Number))
      .filter(([found]) => found === resource)
      .at(-1) ?? [resource, Infinity, Infinity];
    if (!((foundSoft ?? Infinity) <= soft && (foundHard ?? Infinity) <= hard)) {
      throw layerMissingError('limits', `resource limit ${resource} is ${foundSoft} ${foundHard}`);
    }
  }
  for (const { path, rule } of expected.boot) {
    if (!lines.get(rule)?.includes(path)) throw layerMissingError('boot', `${path} is not closed`);
  }
  return {
    uid: Number(first('Uid').split('\t')[0]),
    gid: Number(first('Gid').split('\t')[0]),
    groups: first('Groups').split(' ').filter(Boolean).map(Number),
    noNewPrivileges: true,
    seccomp,
    label: measuredLabel(lines.get('label')?.[0], plannedLabel(expected.labels, 'command')),
    landlock: abi >= 1 ? { abi, walls } : null,
    setIdRefused,
    capabilities: { bounding: capabilityNames(bounding), effective: capabilityNames(effective) },
  };
}
