import type { SandboxLabels } from '../labels/labels.ts';
import { type MeasuredLabel, measuredLabel, plannedLabel } from '../labels/module.ts';
import { type Capability, capabilityNames } from '../policy/capabilities.ts';
import { layerMissing } from '../policy/layers.ts';
import { decodeWalls, type LandlockWall, type ProcRule, type ResourceLimit } from '../wire/exec.ts';
import { factLines } from './fact-lines.ts';

/** What was in force on a command just before it was executed, from its /proc/self/status. */
export interface CommandFacts {
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
  readonly noNewPrivileges: boolean;
  /** `filter`, `strict` or `none`. */
  readonly seccomp: 'none' | 'strict' | 'filter';
  /** The label of SELinux or AppArmor; null on a host without either. */
  readonly label: MeasuredLabel | null;
  /** Landlock's walls, each tried; null without Landlock. */
  readonly landlock: { readonly abi: number; readonly walls: readonly LandlockWall[] } | null;
  /**
   * Whether setting a set-id bit was tried and refused. Always true where the command can write to files of the
   * host.
   */
  readonly setIdRefused: boolean;
  readonly capabilities: {
    readonly bounding: readonly Capability[];
    readonly effective: readonly Capability[];
  };
}

/** What must and must not be in force on a command. */
export interface CommandPlan {
  /** As in {@link CommandPolicy}. Only a numeric user can be compared. */
  readonly user: string;
  readonly capabilities: bigint;
  readonly landlock: readonly LandlockWall[];
  /** True if abstract sockets of the host's network may be reachable. */
  readonly openSockets: boolean;
  readonly limits: readonly ResourceLimit[];
  readonly labels: SandboxLabels | undefined;
  /** How the /proc of a booted system of its own is closed. */
  readonly boot: readonly ProcRule[];
}

/**
 * Reads the facts of a `started` answer. Throws E_LAYER_MISSING when a right that must be dropped is still
 * there.
 */
export function readCommandFacts(text: string, expected: CommandPlan): CommandFacts {
  const lines = factLines(text);
  const first = (name: string) => lines.get(name)?.[0] ?? '';
  const mask = (name: string) => {
    if (!/^[0-9a-f]+$/.test(first(name))) throw layerMissing('capabilities', `${name} unknown`);
    return BigInt(`0x${first(name)}`);
  };
  const bounding = mask('CapBnd');
  const effective = mask('CapEff');
  for (const name of ['CapBnd', 'CapPrm', 'CapEff', 'CapInh', 'CapAmb']) {
    if ((mask(name) & ~expected.capabilities) !== 0n) {
      throw layerMissing('capabilities', `${name} is ${first(name)}`);
    }
  }
  const wanted = expected.user === 'root' ? '0' : expected.user.split(':')[0];
  const uids = first('Uid').split('\t');
  if (/^\d+$/.test(wanted ?? '') && uids.some((uid) => uid !== wanted)) {
    throw layerMissing('user', `uids are ${uids.join(' ')}`);
  }
  if (first('NoNewPrivs') !== '1') throw layerMissing('no_new_privs', first('NoNewPrivs'));
  const seccomp = (['none', 'strict', 'filter'] as const)[Number(first('Seccomp'))] ?? 'none';
  if (seccomp !== 'filter') throw layerMissing('seccomp', seccomp);
  const abi = Number(first('landlock'));
  const walls = decodeWalls(Number(first('walls')));
  for (const wall of expected.landlock) {
    if (!(abi >= 1 && walls.includes(wall))) throw layerMissing('landlock', `no wall: ${wall}`);
  }
  // Both depend on what the init found the sandbox to be, not on what was asked for.
  const closed = first('network') === 'own' || walls.includes('abstract-sockets');
  if (!closed && !expected.openSockets) {
    throw layerMissing('abstract-sockets', 'those of the host can be reached');
  }
  const setIdRefused = first('set_id') === 'refused';
  if (!setIdRefused && first('host_files') !== '0') {
    throw layerMissing('set-id', 'set-id files can be made on the host');
  }
  if (first('descriptors') !== '0') {
    throw layerMissing('descriptors', `${first('descriptors')} beside stdin, stdout and stderr`);
  }
  for (const { resource, soft, hard } of expected.limits) {
    const [, foundSoft, foundHard] = (lines.get('rlimit') ?? [])
      .map((line) => line.split(' ').map(Number))
      .filter(([found]) => found === resource)
      .at(-1) ?? [resource, Infinity, Infinity];
    if (!((foundSoft ?? Infinity) <= soft && (foundHard ?? Infinity) <= hard)) {
      throw layerMissing('limits', `resource limit ${resource} is ${foundSoft} ${foundHard}`);
    }
  }
  for (const { path, rule } of expected.boot) {
    if (!lines.get(rule)?.includes(path)) throw layerMissing('boot', `${path} is not closed`);
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
    capabilities: {
      bounding: capabilityNames(bounding),
      effective: capabilityNames(effective),
    },
  };
}
