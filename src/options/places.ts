/** Kinds of what lies on the host or in a sandbox. */
import { resolve } from 'node:path';
import { InvalidArgumentError } from 'commander';
import type * as json from '../api/io-kiln.ts';
import { defined } from '../defined.ts';
import { KilnError } from '../errors.ts';
import type { HeldPath } from '../host/files/held.ts';
import {
  type Bind,
  type GuestBind,
  isClosedPlace,
  type Tmpfs,
  type WantedBind,
} from '../sandbox/policy/specification.ts';
import { fieldsOf, type Kind, needed, text } from './kind.ts';
import { size as sizes } from './numbers.ts';
import { path, type Rule } from './rules.ts';

/** @throws KilnError E_ARGUMENT */
export function hostPath(field: string, path: string): string;
export function hostPath(field: string, path: string | undefined): string | undefined;
export function hostPath(field: string, path: string | undefined): string | undefined {
  if (path === undefined || path.startsWith('/')) return path;
  throw new KilnError(
    'E_ARGUMENT',
    `${field}: ${path || 'an empty path'} is not an absolute path`,
    {
      hint: 'a call has no working directory: give the whole path',
    },
  );
}

/** An image is a name or an id, or the path of a recipe or lock. @throws KilnError E_ARGUMENT */
export function hostImage(field: string, image: string): string;
export function hostImage(field: string, image: string | undefined): string | undefined;
export function hostImage(field: string, image: string | undefined): string | undefined {
  return image !== undefined && /\/|\.(?:ya?ml|json)$/.test(image) ? hostPath(field, image) : image;
}

function absoluteTarget(path: string): string {
  if (path.startsWith('/') && !path.split('/').includes('..')) return path;
  throw new InvalidArgumentError(`${path || 'the target'} is not an absolute path without “..”.`);
}

function mountTarget(path: string): string {
  const place = resolve(absoluteTarget(path));
  if (place !== '/' && place !== '/proc' && !place.startsWith('/proc/')) return path;
  throw new InvalidArgumentError(`nothing can be mounted on ${place} of a sandbox.`);
}

export const image: Kind<string> = {
  ...text('image'),
  opens: 'image',
  fromJson: (name: string, field) => hostImage(field, name),
};

const BIND_OPTIONS = ['ro', 'rw', 'cow', 'image', 'z', 'Z', 'nolinks'];

/** SRC is relative to the caller's folder, DST absolute in the sandbox. */
export const bind: Kind<Bind> = {
  term: 'src:dst[:how]',
  read: (word, from): WantedBind => {
    const [source, target, mode = 'rw', ...more] = word.split(':');
    if (!source || more.length > 0)
      throw new InvalidArgumentError('write it as SRC:DST[:ro|rw|cow|image][,z|Z][,nolinks].');
    const options = mode.split(',');
    const unknown = options.find((option) => !BIND_OPTIONS.includes(option));
    if (unknown !== undefined) {
      throw new InvalidArgumentError(
        `unknown option ${unknown}: there are ro, rw, cow, image, z, Z and nolinks.`,
      );
    }
    const isCow = options.includes('cow');
    const isImage = options.includes('image');
    if (isImage && (isCow || options.includes('rw')))
      throw new InvalidArgumentError('what is unpacked from an image is read-only.');
    if (isCow && (options.includes('ro') || options.includes('rw')))
      throw new InvalidArgumentError('write one of ro, rw and cow.');
    const absolute = resolve(from.cwd(), source);
    const relabel = options.includes('Z')
      ? 'private'
      : options.includes('z')
        ? 'shared'
        : undefined;
    return {
      source: absolute,
      target: mountTarget(target ?? absolute),
      readonly: isCow || isImage || options.includes('ro'),
      ...(isCow ? { cow: true } : {}),
      ...(isImage ? { image: true } : {}),
      ...(options.includes('nolinks') ? { noLinks: true } : {}),
      ...defined({ relabel }),
    };
  },
  // A path may have a colon here.
  fromJson: (asked: json.Bind, field): WantedBind => ({
    source: hostPath(field, asked.source),
    target: mountTarget(asked.target),
    readonly: asked.readonly === true || asked.cow === true || asked.image === true,
    ...(asked.cow === true ? { cow: true } : {}),
    ...(asked.image === true ? { image: true } : {}),
    ...(asked.noLinks === true ? { noLinks: true } : {}),
    ...defined({ relabel: asked.relabel }),
  }),
  word: (asked) => {
    const { source, target, readonly, cow, image, relabel, noLinks } = fieldsOf(asked);
    const options = [
      cow === true ? 'cow' : image === true ? 'image' : readonly === true ? 'ro' : 'rw',
      ...(relabel === undefined ? [] : [relabel === 'private' ? 'Z' : 'z']),
      ...(noLinks === true ? ['nolinks'] : []),
    ];
    return `${source}:${target}:${options.join(',')}`;
  },
  opens: path('place', 'source'),
  pathIn: (word) => [0, `${word}:`.indexOf(':')],
};

/** Below a bind. */
export const belowBind: Kind<string> = {
  term: 'path',
  read: (word) => {
    const parts = word.split('/');
    if (!parts.some((part) => part === '' || part === '.' || part === '..')) return word;
    throw new InvalidArgumentError('give a path below the bound folder, such as .git/hooks.');
  },
};

export const copyIn: Kind<{ readonly source: HeldPath; readonly target: string }> = {
  term: 'src:dst',
  read: (word, from) => {
    const colon = word.lastIndexOf(':');
    if (colon <= 0) throw new InvalidArgumentError('write it as SRC:DST.');
    // Not resolved, because a slash or `/.` at the end has a meaning.
    const source = word.slice(0, colon);
    const target = absoluteTarget(word.slice(colon + 1));
    return { source: source.startsWith('/') ? source : `${from.cwd()}/${source}`, target };
  },
  fromJson: ({ source, target }: json.Copy, field) => ({
    source: hostPath(field, source),
    target: absoluteTarget(target),
  }),
  word: (asked) => `${fieldsOf(asked).source}:${fieldsOf(asked).target}`,
  opens: path('tree', 'source'),
  pathIn: (word) => [0, word.lastIndexOf(':')],
};

export const tmpfs: Kind<Tmpfs> = {
  term: 'dst[:size]',
  read: (word) => {
    const [target = '', size, ...more] = word.split(':');
    if (more.length > 0) throw new InvalidArgumentError('write it as DST[:SIZE].');
    return { target: mountTarget(target), ...defined({ size: size && sizes.read(size) }) };
  },
  fromJson: ({ target, size }: json.Tmpfs) => ({
    target: mountTarget(target),
    ...defined({ size: size === undefined ? undefined : sizes.fromJson(size) }),
  }),
  word: (asked) => {
    const { target, size } = fieldsOf(asked);
    return typeof size === 'number' ? `${target}:${size}` : String(target);
  },
};

function guestPlace(path: string): string {
  const place = resolve(absoluteTarget(path));
  if (!isClosedPlace(place)) return place;
  throw new InvalidArgumentError(`nothing is bound from or to ${place} inside a sandbox.`);
}

/** Both are of the sandbox. */
export const guestBind: Kind<GuestBind> = {
  term: 'src:dst[:ro]',
  read: (word) => {
    const [source = '', target = '', how = 'rw', ...more] = word.split(':');
    if (more.length > 0 || !['ro', 'rw'].includes(how))
      throw new InvalidArgumentError('write it as SRC:DST[:ro], both absolute in the sandbox.');
    return {
      source: guestPlace(source),
      target: guestPlace(target),
      readonly: how === 'ro',
    };
  },
  fromJson: ({ source, target, readonly }: json.GuestBind) => ({
    source: guestPlace(source),
    target: guestPlace(target),
    readonly: readonly === true,
  }),
  word: (asked) => {
    const { source, target, readonly } = fieldsOf(asked);
    return `${source}:${target}${readonly === true ? ':ro' : ''}`;
  },
};

function secretName(name: string): string {
  return needed(/^[\w-][\w.-]*$/.test(name) ? name : undefined, 'write it as NAME=FILE.');
}

export const secret: Kind<{ readonly name: string; readonly file: HeldPath }> = {
  term: 'name=file',
  read: (word, from) => {
    const [, name = '', file = ''] = /^([\w.-]+)=(.+)$/.exec(word) ?? [];
    return { name: secretName(name), file: resolve(from.cwd(), file) };
  },
  fromJson: ({ name, file }: json.Secret, field) => ({
    name: secretName(name),
    file: hostPath(field, file),
  }),
  // A result has the name only.
  word: (asked) => `${fieldsOf(asked).name ?? asked}=FILE`,
  opens: path('content', 'file'),
  pathIn: (word) => [word.indexOf('=') + 1, word.length],
};

/** A path that is opened so. */
export function opened<Value>(term: string, opens: Rule): Kind<Value> {
  return { term, read: String, fromJson: (path: string, field) => hostPath(field, path), opens };
}

export function isProfileFile(nameOrPath: string): boolean {
  return /[./]/.test(nameOrPath);
}

/** The name of one of kiln's, or the path of a file in podman's format. */
export const seccomp: Kind<string> = {
  ...text('profile'),
  fromJson: (profile: string, field) =>
    isProfileFile(profile) ? hostPath(field, profile) : profile,
  opens: path('text', undefined, isProfileFile),
};
