/** Who may give an option, and what a caller's paths are opened for. */
import { defined } from '../defined.ts';
import { isListed, parseEgressRule } from '../egress/rule.ts';
import {
  formatNetwork,
  formatPublish,
  type PublishedPort,
  type SandboxNetwork,
} from '../sandbox/policy/network.ts';
import { SIZES } from './measures.ts';

export type Values = Readonly<Record<string, unknown>>;

/**
 * How a caller's path is used. `file`: read, and its name means something. `text`: the same, and errors may quote what
 * is in it. `content`: read, and its name means nothing. `built`: read as the source of a build. `sources`: a folder
 * whose links are followed. `tree`: a file or folder, copied with its links. `place`: bound. `results`: a folder that is
 * written to; `lone results`: by one build at a time. `result`: one file or folder that is written. `repository`: a
 * folder of packages, and its key; `package`: a file of a folder. These folders and keys are held under their names.
 */
export type PathKind =
  | 'file'
  | 'text'
  | 'content'
  | 'built'
  | 'sources'
  | 'tree'
  | 'place'
  | 'results'
  | 'lone results'
  | 'result'
  | 'repository'
  | 'package';

/** What root's kiln.yaml may say of users' machines: the later, the more. */
export const MACHINES = ['none', 'kvm', 'emulated'] as const;

/** What root's kiln.yaml allows users, and what one of them has a share of. */
export interface Allowances {
  readonly machines: (typeof MACHINES)[number];
  readonly egress: readonly string[];
  readonly networks: readonly string[];
  /** Addresses of this host. */
  readonly publish: readonly string[];
  readonly capabilities: readonly string[];
  readonly limits: {
    readonly sandboxes: number;
    readonly memory: number;
    readonly cpus?: number | undefined;
    readonly pids: number;
    readonly disk: number;
    readonly keep: number;
  };
}

export type Rule =
  /** Allowed: it affects only the user's own sandbox, within its share. */
  | 'open'
  | {
      readonly kind: 'root';
      readonly why: string;
      /** Whether it says nothing of this machine, so that it goes to another one (`--host`) as it is. */
      readonly travels: boolean;
    }
  | {
      readonly kind: 'setting';
      readonly setting?: string;
      /** What users have instead, where no setting of root's allows it. */
      readonly instead?: string;
      /** In which its numbers are written. */
      readonly units?: Readonly<Record<string, number>>;
      /** As the caller has written its values, where they are not text or numbers. */
      readonly shown?: (value: unknown) => string;
      readonly allows: (value: unknown, policy: Allowances, options: Values) => boolean;
    }
  | {
      readonly kind: 'path';
      readonly path: PathKind;
      readonly field?: 'source' | 'file';
      /** Whether a value is a path: some may be names as well. */
      readonly where?: (value: string) => boolean;
    }
  | 'image';

/** @param travels unless what it says holds for this machine only */
export function root(why: string, travels = true): Rule {
  return { kind: 'root', why, travels };
}

/** Of commands that are root's, or of what root alone may have of others. */
export const ROOTS = root('it is root’s');

export const CONFIRMS = root('it confirms what only root may do');

export function path(
  kind: PathKind,
  field?: 'source' | 'file',
  where?: (value: string) => boolean,
): Rule {
  return { kind: 'path', path: kind, ...defined({ field, where }) };
}

export function open<Name extends string>(
  ...names: readonly Name[]
): Readonly<Record<Name, 'open'>> {
  return Object.fromEntries(names.map((name) => [name, 'open'])) as Record<Name, 'open'>;
}

export function setting(
  name: string,
  allows: (value: unknown, policy: Allowances, options: Values) => boolean,
  units?: Readonly<Record<string, number>>,
): Rule {
  return { kind: 'setting', setting: `users.${name}`, allows, ...defined({ units }) };
}

export function every<Item>(value: unknown, holds: (item: Item) => boolean): boolean {
  return Array.isArray(value) && value.every((item: Item) => holds(item));
}

function isOpenHost(text: string, { egress }: Allowances): boolean {
  const wanted = parseEgressRule(text);
  const rules = egress.map(parseEgressRule).filter((rule) => rule !== undefined);
  if (wanted === undefined) return false;
  return wanted.ports.every((port) =>
    wanted.below
      ? rules.some(
          ({ host, below, ports }) =>
            below && ports.includes(port) && `.${wanted.host}`.endsWith(`.${host}`),
        )
      : isListed(rules, wanted.host, port),
  );
}

export const EGRESS = setting('egress', (value, policy) =>
  every<string>(value, (host) => isOpenHost(host, policy)),
);

function networkWords(value: unknown): string {
  return formatNetwork(value as SandboxNetwork);
}

/** Networks by their names, without settings that could take another one's address. */
export function areListed(value: unknown, { networks }: Allowances): boolean {
  const names = networkWords(value).split(' ');
  return names.every((name) => networks.includes(name));
}

export const NETWORK: Rule = {
  kind: 'setting',
  setting: 'users.networks',
  shown: networkWords,
  allows: (value, policy) => value === 'private' || areListed(value, policy),
};

/** Below it, ports are for root (ip_unprivileged_port_start). */
const FIRST_PORT = 1024;
/** Of one sandbox. */
const MOST_PORTS = 16;

export const PUBLISH: Rule = {
  kind: 'setting',
  instead: `users publish ${MOST_PORTS} ports at most, each from ${FIRST_PORT} on, at the addresses of users.publish in /etc/kiln/kiln.yaml; \`kiln config show\` shows them`,
  allows: (value, { publish }) =>
    every<PublishedPort>(
      value,
      ({ host, address }) => host >= FIRST_PORT && publish.includes(address),
    ) && [value].flat().length <= MOST_PORTS,
  shown: (value) => (value as readonly PublishedPort[]).map(formatPublish).join(', '),
};

export const ISOLATION_RULE = setting(
  'machines',
  (value, { machines }) => value === 'container' || machines !== 'none',
);

/** Other layers are not for users to give up: their limits keep them from other users' share. */
export const MISSING_RULE: Rule = {
  kind: 'setting',
  instead: 'kvm alone may be missing, where /etc/kiln/kiln.yaml has users.machines: emulated',
  allows: (value, { machines }) =>
    every(value, (layer) => layer === 'kvm' && machines === 'emulated'),
};

/**
 * A user may ask for a value that the setting allows to all of the user's sandboxes together; the setting of the
 * disk is for each sandbox. Without the setting any value is allowed: the machine is the only limit then.
 */
export function share(limit: 'memory' | 'cpus' | 'pids' | 'disk'): Rule {
  const allows = (value: unknown, { limits }: Allowances) => {
    const most = limits[limit];
    const share = limit === 'disk' ? 1 : limits.sandboxes;
    return most === undefined || Number(value) * share <= most;
  };
  const isSize = limit === 'memory' || limit === 'disk';
  return setting(`limits.${limit}`, allows, isSize ? SIZES : undefined);
}

export const SHIPPED_PROFILES: readonly unknown[] = ['default', 'build', 'strict'];
