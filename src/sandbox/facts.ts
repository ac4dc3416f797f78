import { readlinkSync } from 'node:fs';
import { KilnError } from '../errors.ts';
import { type Capability, capabilityNames } from './capabilities.ts';

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
  readonly interfaces: readonly string[];
  readonly mounts: readonly MeasuredMount[];
}

/** What was in force on a command when it was about to start, read from its /proc/self/status. */
export interface CommandFacts {
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
  readonly noNewPrivileges: boolean;
  /** `filter`, `strict` or `none`. */
  readonly seccomp: 'none' | 'strict' | 'filter';
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
  return new KilnError('E_LAYER_MISSING', `the sandbox is not closed: ${layer} (${found})`, {
    hint: '`kiln doctor` tells what this host lacks; the command was not trusted to a box that leaks',
    details: { layer },
  });
}

/**
 * Reads the facts of a `ready` answer and compares them with the host. Throws E_LAYER_MISSING when
 * a namespace is the host's.
 */
export function readBoxFacts(text: string, network: 'own' | 'host'): BoxFacts {
  const lines = parseLines(text);
  const namespaces: string[] = [];
  for (const link of lines.get('ns') ?? []) {
    const name = link.slice(0, link.indexOf(':'));
    if (readlinkSync(`/proc/self/ns/${name}`) !== link) namespaces.push(name);
  }
  for (const name of network === 'own' ? [...REQUIRED, 'net'] : REQUIRED) {
    if (!namespaces.includes(name)) throw notMeasured(`${name} namespace`, 'it is the host’s');
  }
  const map = (lines.get('uid_map')?.[0] ?? '').split(' ').map(Number);
  const [inside, outside, count] = map;
  if (inside !== 0 || !outside || !count) throw notMeasured('user namespace', map.join(' '));
  return {
    namespaces,
    uidMap: [inside, outside, count],
    interfaces: lines.get('interface') ?? [],
    mounts: (lines.get('mount') ?? []).map((line) => {
      const [type = '', options = '', ...path] = line.split(' ');
      return { path: path.join(' '), type, options: options.split(',') };
    }),
  };
}

/**
 * Reads the facts of a `started` answer. Throws E_LAYER_MISSING when something that was to be
 * dropped is still there.
 */
export function readCommandFacts(
  text: string,
  expected: { readonly capabilities: bigint; readonly seccomp: boolean },
): CommandFacts {
  const lines = parseLines(text);
  const first = (name: string) => lines.get(name)?.[0] ?? '';
  const mask = (name: string) => {
    if (!/^[0-9a-f]+$/.test(first(name))) throw notMeasured('capabilities', `${name} unknown`);
    return BigInt(`0x${first(name)}`);
  };
  const bounding = mask('CapBnd');
  const effective = mask('CapEff');
  if ((bounding & ~expected.capabilities) !== 0n || (effective & ~bounding) !== 0n) {
    throw notMeasured('capabilities', `bounding set ${first('CapBnd')}`);
  }
  if (first('NoNewPrivs') !== '1') throw notMeasured('no_new_privs', first('NoNewPrivs'));
  const seccomp = (['none', 'strict', 'filter'] as const)[Number(first('Seccomp'))] ?? 'none';
  if (expected.seccomp && seccomp !== 'filter') throw notMeasured('seccomp', seccomp);
  return {
    uid: Number(first('Uid').split('\t')[0]),
    gid: Number(first('Gid').split('\t')[0]),
    groups: first('Groups').split(' ').filter(Boolean).map(Number),
    noNewPrivileges: true,
    seccomp,
    capabilities: {
      bounding: capabilityNames(bounding),
      effective: capabilityNames(effective),
    },
  };
}
