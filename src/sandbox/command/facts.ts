import { readlinkSync } from 'node:fs';
import type { IdRange } from '../domain/id-range.ts';
import type { SandboxLabels } from '../labels/labels.ts';
import { type MeasuredLabel, measuredLabel, plannedLabel } from '../labels/module.ts';
import { layerMissing } from '../policy/layers.ts';
import type { SetupOperation } from '../wire/table.ts';
import { factLines } from './fact-lines.ts';

/** A mount as the sandbox sees it. */
interface MeasuredMount {
  readonly path: string;
  readonly type: string;
  readonly options: readonly string[];
}

/** What the guest init measured in its own sandbox before the first command. */
export interface SandboxFacts {
  /** Namespaces that differ from the host's. */
  readonly namespaces: readonly string[];
  /** First id inside, first id outside, count. */
  readonly uidMap: readonly [number, number, number];
  readonly gidMap: readonly [number, number, number];
  readonly interfaces: readonly string[];
  readonly mounts: readonly MeasuredMount[];
  /** Paths whose content is hidden. */
  readonly masked: readonly string[];
  /** Paths of the host's kernel that cannot be written to. */
  readonly readonlyPaths: readonly string[];
  /** Binds that cannot be written to. */
  readonly readonlyBinds: readonly string[];
  /** Names in /dev. */
  readonly devices: readonly string[];
  /** How many namespaces of each kind the sandbox may still make; null if there is no limit. */
  readonly namespaceLimit: number | null;
  /** The init's label; null on a host without SELinux and AppArmor. */
  readonly initLabel: MeasuredLabel | null;
}

/**
 * Namespaces that every sandbox has of its own. `net` is checked separately, because a job may ask for the
 * host's.
 */
const REQUIRED = ['cgroup', 'ipc', 'mnt', 'pid', 'user', 'uts'];

/** What {@link readSandboxFacts} compares the facts with. */
export interface ExpectedFacts {
  readonly network: 'own' | 'host';
  readonly range: IdRange;
  readonly operations: readonly SetupOperation[];
  /** Whether a time namespace is required, too. */
  readonly time: boolean;
  readonly labels: SandboxLabels | undefined;
}

/**
 * Reads the facts of a `ready` answer and compares them with the host and the plan. Throws E_LAYER_MISSING when
 * a namespace is the host's, the ids are not the sandbox's, or a path that must be hidden or closed is not on
 * the init's list of hidden and closed paths.
 */
export function readSandboxFacts(text: string, plan: ExpectedFacts): SandboxFacts {
  const lines = factLines(text);
  const all = (name: string) => lines.get(name) ?? [];
  const namespaces: string[] = [];
  for (const link of all('ns')) {
    const name = link.slice(0, link.indexOf(':'));
    if (ownNamespace(name) !== link) namespaces.push(name);
  }
  const required = [
    ...REQUIRED,
    ...(plan.network === 'own' ? ['net'] : []),
    ...(plan.time ? ['time'] : []),
  ];
  for (const name of required) {
    if (!namespaces.includes(name)) throw layerMissing(`${name}-namespace`, 'it is the host’s');
  }
  const map = (name: string): [number, number, number] => {
    const [inside = -1, outside = -1, count = -1] = (all(name)[0] ?? '').split(' ').map(Number);
    if (inside !== 0 || outside !== plan.range.base || count !== plan.range.count) {
      throw layerMissing('user-namespace', `${name} is ${inside} ${outside} ${count}`);
    }
    return [inside, outside, count];
  };
  const mounts = all('mount').map((line) => {
    const [type = '', options = '', ...path] = line.split(' ');
    return { path: path.join(' '), type, options: options.split(',') };
  });
  const limit = all('namespace_limit')[0];
  const facts: SandboxFacts = {
    namespaces,
    uidMap: map('uid_map'),
    gidMap: map('gid_map'),
    interfaces: all('interface'),
    mounts,
    masked: all('mask'),
    readonlyPaths: all('readonly'),
    readonlyBinds: all('bind_readonly'),
    devices: all('device'),
    namespaceLimit: limit === undefined ? null : Number(limit),
    initLabel: measuredLabel(all('init_label')[0], plannedLabel(plan.labels, 'init')),
  };
  comparePlan(facts, plan.operations);
  return facts;
}

const own = new Map<string, string>();

/**
 * A namespace of this process, which never changes its namespaces. Throws where the kernel has no such kind.
 */
function ownNamespace(name: string): string {
  const link = own.get(name) ?? readlinkSync(`/proc/self/ns/${name}`);
  own.set(name, link);
  return link;
}

function comparePlan(facts: SandboxFacts, operations: readonly SetupOperation[]): void {
  for (const operation of operations) {
    if (operation.op === 'mask' && !facts.masked.includes(operation.path)) {
      throw layerMissing('masked-paths', operation.path);
    }
    if (operation.op === 'readonly' && !facts.readonlyPaths.includes(operation.path)) {
      throw layerMissing('read-only-paths', operation.path);
    }
    if (
      operation.op === 'bind' &&
      operation.access === 'readonly' &&
      !facts.readonlyBinds.includes(operation.path)
    ) {
      throw layerMissing('binds', `${operation.path} can be written to`);
    }
    if (operation.op === 'namespaces' && facts.namespaceLimit !== operation.most) {
      throw layerMissing('namespace-limit', String(facts.namespaceLimit));
    }
  }
}
