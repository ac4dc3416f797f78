/** podman's `--mount`: another spelling of `--bind`, `--guest-bind` and `--tmpfs`. */
import { InvalidArgumentError } from 'commander';
import { needed } from './kind.ts';
import { type Row, row } from './row.ts';

const KEYS: ReadonlyMap<string, string> = new Map(
  Object.entries({
    ...{ type: 'type', source: 'source', src: 'source', relabel: 'relabel' },
    ...{ target: 'target', destination: 'target', dst: 'target', 'tmpfs-size': 'size' },
    ...{ readonly: 'ro', ro: 'ro', rw: 'rw', cow: 'cow', nolinks: 'nolinks' },
  }),
);

const BIND = ['source', 'target', 'relabel', 'ro', 'rw', 'cow', 'nolinks'];
const TMPFS = ['target', 'size'];

const GUEST_BIND = ['source', 'target', 'ro', 'rw'];

const IMAGE = ['source', 'target', 'ro'];

const TYPES: ReadonlyMap<string, readonly string[]> = new Map([
  ['bind', BIND],
  ['guest-bind', GUEST_BIND],
  ['image', IMAGE],
  ['tmpfs', TMPFS],
]);

const WORDS = new Set(['ro', 'rw', 'cow', 'nolinks']);

const RELABEL: ReadonlyMap<string, string> = new Map([
  ['shared', 'z'],
  ['private', 'Z'],
]);

const HOW =
  'write it as type=bind,source=SRC,target=DST[,readonly], type=image,source=FILE,target=DST, type=guest-bind,source=SRC,target=DST or type=tmpfs,target=DST[,tmpfs-size=SIZE].';

/** What podman has, and there is something else for. */
const INSTEAD: ReadonlyMap<string, string> = new Map([
  ['volume', 'there are no named volumes: type=bind,source=DIR shows a folder of this host.'],
  ['devpts', 'every sandbox has a /dev/pts of its own.'],
  ['ramfs', 'write type=tmpfs.'],
]);

/** @throws InvalidArgumentError */
function isTrue(name: string, value: string | undefined): boolean {
  const isSo = value === undefined || value === 'true' || value === '1';
  if (isSo || value === 'false' || value === '0') return isSo;
  throw new InvalidArgumentError(`${name}=${value} is neither true nor false.`);
}

/** What a part says by kiln's name for it; undefined for what is `false`. */
function partOf(part: string): readonly [key: string, value: string] | undefined {
  const equals = part.indexOf('=');
  const name = equals === -1 ? part : part.slice(0, equals);
  const value = equals === -1 ? undefined : part.slice(equals + 1);
  const key = needed(KEYS.get(name), `${name || 'an empty part'} is not known: ${HOW}`);
  if (WORDS.has(key)) return isTrue(name, value) ? [key, key] : undefined;
  return [key, needed(value || undefined, `${name} has no value: ${HOW}`)];
}

/** @throws InvalidArgumentError */
function partsOf(word: string): ReadonlyMap<string, string> {
  const parts = new Map<string, string>();
  for (const text of word.split(',')) {
    const part = partOf(text);
    if (part === undefined) continue;
    if (parts.has(part[0])) throw new InvalidArgumentError(`${part[0]} is given twice.`);
    parts.set(...part);
  }
  return parts;
}

/**
 * The words for another option that mean the same.
 * @throws InvalidArgumentError
 */
function mountAgain(word: string): readonly [flag: string, value: string] {
  const parts = partsOf(word);
  const type = needed(parts.get('type'), `it has no type: ${HOW}`);
  const allowed = needed(TYPES.get(type), INSTEAD.get(type) ?? `there is no type ${type}: ${HOW}`);
  const other = [...parts.keys()].find((key) => key !== 'type' && !allowed.includes(key));
  if (other !== undefined) throw new InvalidArgumentError(`type=${type} takes no ${other}.`);
  const place = (key: string) => {
    const path = needed(parts.get(key), `type=${type} needs ${key}=PATH.`);
    if (!path.includes(':')) return path;
    throw new InvalidArgumentError(
      `${path} has a colon, at which its option is divided: give a link without one.`,
    );
  };
  const target = place('target');
  if (type === 'tmpfs') {
    const size = parts.get('size');
    return ['--tmpfs', size === undefined ? target : `${target}:${size}`];
  }
  if (type === 'image') return ['--bind', `${place('source')}:${target}:image`];
  const relabel = parts.get('relabel');
  const label =
    relabel && needed(RELABEL.get(relabel), `relabel is shared or private, not ${relabel}.`);
  const how = [...parts.keys()].filter((key) => WORDS.has(key));
  if (how.includes('ro') && how.includes('rw'))
    throw new InvalidArgumentError('write one of readonly and rw.');
  const options = [...how, ...(label ? [label] : [])];
  return [
    type === 'bind' ? '--bind' : '--guest-bind',
    [place('source'), target, ...(options.length > 0 ? [options.join(',')] : [])].join(':'),
  ];
}

/** It never has a value of its own, so requests and calls know nothing of it. */
export const MOUNT: Row = row({ term: 'spec', read: mountAgain }, 'open', {
  help: 'write --bind or --tmpfs as podman does: type=bind,source=SRC,target=DST, with ,readonly or ,relabel=shared; type=image,source=FILE,target=DST; type=guest-bind,source=SRC,target=DST; type=tmpfs,target=DST[,tmpfs-size=SIZE]',
  many: true,
  again: mountAgain,
});
