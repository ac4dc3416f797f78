/** Kinds of text. */
import { InvalidArgumentError } from 'commander';
import { z } from 'zod';
import { parseEgressRule } from '../egress/rule.ts';
import { ARCHITECTURES } from '../host/process/architecture.ts';
import type { Capability } from '../host/process/process.ts';
import {
  formatLabel,
  type LabelRequest,
  parseLabelRequest,
} from '../sandbox/policy/label-request.ts';
import { type OptionalLayer, parseLayer } from '../sandbox/policy/layers.ts';
import {
  formatNetwork,
  formatPublish,
  type LibvirtNetwork,
  type PublishedPort,
  parseLibvirtNetwork,
  parsePublish,
  type SandboxNetwork,
} from '../sandbox/policy/network.ts';
import { parseCapability } from '../sandbox/policy/specification.ts';
import { type Kind, needed } from './kind.ts';
import { HOSTNAME } from './measures.ts';

export function choice<const Choice extends string>(
  term: string,
  choices: readonly Choice[],
): Kind<Choice> {
  const how = `Allowed choices are ${choices.join(', ')}.`;
  const read = (word: string) =>
    needed(
      choices.find((each) => each === word),
      how,
    );
  return { term, read, choices };
}

/** As rpm calls it. */
export const architecture: Kind<string> = choice('arch', ARCHITECTURES);

/** A name, and what it stands for. */
export type Pair = readonly [name: string, value: string];

export const VARIABLE = /^[A-Za-z_][A-Za-z0-9_]*$/;

/** `NAME=VALUE`, or `NAME` for the caller's own value of it, which counts for nothing where the caller has none. */
export const env: Kind<Pair> = {
  term: 'name=value',
  pairs: true,
  read: (word, from) => {
    const [name = ''] = word.split('=', 1);
    if (!VARIABLE.test(name)) throw new InvalidArgumentError('write it as NAME=VALUE.');
    const value = name === word ? from.variable(name) : word.slice(name.length + 1);
    return value === undefined ? undefined : [name, value];
  },
  fromJson: ([name, value]: Pair) => {
    if (VARIABLE.test(name)) return [name, value];
    throw new InvalidArgumentError(`${name || 'an empty name'} is the name of no variable.`);
  },
};

export const hostname: Kind<string> = {
  term: 'name',
  read: (word) => {
    const how = '1 to 63 letters, digits, . and -, not . or - first.';
    return needed(HOSTNAME.test(word) ? word : undefined, how);
  },
};

export const egress: Kind<string> = {
  term: 'host[:port]',
  read: (word) =>
    needed(parseEgressRule(word) && word, 'not a host: write it as HOST, HOST:PORT or *.HOST.'),
};

/** Of a value that has been read, or of a result, which has the word itself. */
function wordBy<Value>(format: (value: Value) => string) {
  return (asked: unknown) => (typeof asked === 'object' ? format(asked as Value) : plain(asked));
}

function plain(asked: unknown): string | undefined {
  return typeof asked === 'string' ? asked : undefined;
}

export const publish: Kind<PublishedPort> = {
  term: '[addr:]port:port',
  // podman names the protocol, too.
  read: (word) =>
    needed(
      parsePublish(word.replace(/\/tcp$/, '')),
      `not two ports: write it as [ADDRESS:]HOSTPORT:PORT, as 8081:80${word.endsWith('/udp') ? '; only TCP ports can be published' : ''}.`,
    ),
  word: wordBy(formatPublish),
  told: true,
  yaml: z.string(),
};

export const capability: Kind<Capability> = { term: 'capability', read: parseCapability };
export const layer: Kind<OptionalLayer> = { term: 'layer', read: parseLayer };

export const label: Kind<LabelRequest> = {
  term: 'label',
  read: parseLabelRequest,
  word: wordBy(formatLabel),
  told: true,
};

const HOW = 'write NAME, or NAME,address=192.168.122.7/24,gateway=192.168.122.1';

/** Several of libvirt's have spaces between them. @throws InvalidArgumentError */
function networkOf(text: string): SandboxNetwork {
  const words = text.split(/\s+/);
  const alone = words.find((word) => word === 'private' || word === 'none' || word === 'host');
  if (alone !== undefined) {
    const kind = alone === 'host' ? alone : 'private';
    return needed(words.length === 1 ? kind : undefined, `${alone} goes with no other network.`);
  }
  return words.map(networkNamed);
}

/** @throws InvalidArgumentError */
export function networkNamed(word: string): LibvirtNetwork {
  const network = parseLibvirtNetwork(word);
  if (typeof network === 'object') return network;
  throw new InvalidArgumentError(`${network || 'not a network'}: ${HOW}.`);
}

export const network: Kind<SandboxNetwork> = {
  term: 'network',
  read: networkOf,
  word: wordBy(formatNetwork),
  ...{ told: true, joins: true },
};
