/** Kinds of text. */
import { InvalidArgumentError } from 'commander';
import { parseEgressRule } from '../egress/rule.ts';
import type { Capability } from '../host/process/process.ts';
import { type LabelRequest, parseLabelRequest } from '../sandbox/policy/label-request.ts';
import { type OptionalLayer, parseLayer } from '../sandbox/policy/layers.ts';
import { parseCapability } from '../sandbox/policy/specification.ts';
import { fieldsOf, type Kind, needed, text } from './kind.ts';
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

export const VARIABLE = /^[A-Za-z_][A-Za-z0-9_]*$/;

/** `NAME=VALUE`, or `NAME` for the caller's own value of it, which counts for nothing where the caller has none. */
export const env: Kind<readonly [name: string, value: string]> = {
  term: 'name=value',
  read: (word, from) => {
    const [name = ''] = word.split('=', 1);
    if (!VARIABLE.test(name)) throw new InvalidArgumentError('write it as NAME=VALUE.');
    const value = name === word ? from.variable(name) : word.slice(name.length + 1);
    return value === undefined ? undefined : [name, value];
  },
  fromJson: ([name, value]: readonly [string, string]) => {
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

export const capability: Kind<Capability> = { term: 'capability', read: parseCapability };
export const layer: Kind<OptionalLayer> = { term: 'layer', read: parseLayer };

export const label: Kind<LabelRequest> = {
  term: 'label',
  read: parseLabelRequest,
  word: (asked) => {
    const { kind, label } = fieldsOf(asked);
    if (typeof kind !== 'string') return undefined;
    return typeof label === 'string' ? `${kind}:${label}` : kind;
  },
};

export const network: Kind<string> = {
  ...text('network'),
  word: (asked) => {
    const { name, ...network } = fieldsOf(asked);
    if (typeof name !== 'string') return asked === 'host' ? asked : undefined;
    const options = (['address', 'gateway', 'mac'] as const)
      .filter((key) => network[key] !== undefined)
      .map((key) => `,${key}=${network[key]}`);
    return `${name}${options.join('')}`;
  },
};
