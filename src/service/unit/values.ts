import { KilnError } from '../../errors.ts';
import { plainWords, splitWords, type Word } from './unit-file.ts';

/** The values of specifiers (systemd.unit(5), "Specifiers"). */
export interface UnitSurroundings {
  readonly hostname: string;
  readonly machineId: string;
}

export interface SpecifierContext extends UnitSurroundings {
  readonly unit: string;
  readonly user: { readonly name: string; readonly uid: number; readonly home: string };
  readonly group: { readonly name: string; readonly gid: number };
}

type UnitNameParts = ReturnType<typeof unitNameParts>;

export function unitNameParts(name: string) {
  const dot = name.lastIndexOf('.');
  const stem = name.slice(0, dot);
  const at = stem.indexOf('@');
  return {
    prefix: at < 0 ? stem : stem.slice(0, at),
    instance: at < 0 ? undefined : stem.slice(at + 1),
    suffix: name.slice(dot + 1),
  };
}

/** Decodes a path in a unit's name: `foo-bar\x2dbaz` means `foo/bar-baz` (systemd-escape(1)). */
export function unescapeUnitName(text: string): string {
  return text
    .replaceAll('-', '/')
    .replace(/\\x([0-9a-f]{2})/g, (_, hex: string) =>
      String.fromCharCode(Number.parseInt(hex, 16)),
    );
}

const SPECIFIERS: Readonly<
  Record<string, (context: SpecifierContext, parts: UnitNameParts) => string>
> = {
  '%': () => '%',
  n: ({ unit }) => unit,
  N: ({ unit }, { suffix }) => unit.slice(0, -suffix.length - 1),
  p: (_, { prefix }) => prefix,
  P: (_, { prefix }) => unescapeUnitName(prefix),
  i: (_, { instance }) => instance ?? '',
  I: (_, { instance }) => unescapeUnitName(instance ?? ''),
  j: (_, { prefix }) => lastPart(prefix),
  J: (_, { prefix }) => unescapeUnitName(lastPart(prefix)),
  f: (_, { instance, prefix }) => `/${unescapeUnitName(instance || prefix)}`,
  H: ({ hostname }) => hostname,
  q: ({ hostname }) => hostname,
  l: ({ hostname }) => hostname.split('.')[0] ?? '',
  m: ({ machineId }) => machineId,
  u: ({ user }) => user.name,
  U: ({ user }) => String(user.uid),
  h: ({ user }) => user.home,
  g: ({ group }) => group.name,
  G: ({ group }) => String(group.gid),
  s: () => '/bin/sh',
  t: () => '/run',
  S: () => '/var/lib',
  C: () => '/var/cache',
  L: () => '/var/log',
  E: () => '/etc',
  T: () => '/tmp',
  V: () => '/var/tmp',
};

function lastPart(prefix: string): string {
  return prefix.slice(prefix.lastIndexOf('-') + 1);
}

/** Replaces specifiers; `%%` is a per cent sign, and unknown ones stay as they are. */
export function expandSpecifiers(text: string, context: SpecifierContext): string {
  const parts = unitNameParts(context.unit);
  return text.replace(
    /%(.)/g,
    (whole, letter: string) => SPECIFIERS[letter]?.(context, parts) ?? whole,
  );
}

/** Microseconds of each unit of systemd.time(7). */
const UNITS = new Map(
  Object.entries({
    'usec us µs': 1,
    'msec ms': 1e3,
    'seconds second sec s': 1e6,
    'minutes minute min m': 60e6,
    'hours hour hr h': 3600e6,
    'days day d': 86_400e6,
    'weeks week w': 604_800e6,
    'months month M': 2_629_800e6,
    'years year y': 31_557_600e6,
  }).flatMap(([names, microseconds]) =>
    names.split(' ').map((name) => [name, microseconds] as const),
  ),
);

/**
 * Milliseconds of a span of systemd.time(7): `90`, `5min 20s`, `1.5h`, `infinity`; a number without a unit is
 * seconds. Undefined for anything else.
 */
export function parseTimeSpan(text: string): number | undefined {
  const trimmed = text.trim();
  if (trimmed === 'infinity') return Number.POSITIVE_INFINITY;
  let sum = 0;
  let read = 0;
  for (const [part, number, name = ''] of trimmed.matchAll(/(\d+(?:\.\d+)?)\s*([A-Za-zµ]*)\s*/gy)) {
    sum += Number(number) * (name === '' ? 1e6 : (UNITS.get(name) ?? Number.NaN));
    read += part.length;
  }
  return read === 0 || read < trimmed.length || Number.isNaN(sum) ? undefined : sum / 1e3;
}

/** In the order of their RLIMIT_ numbers (asm-generic/resource.h). */
export const RESOURCE_NAMES = [
  ...['CPU', 'FSIZE', 'DATA', 'STACK', 'CORE', 'RSS', 'NPROC', 'NOFILE', 'MEMLOCK', 'AS'],
  ...['LOCKS', 'SIGPENDING', 'MSGQUEUE', 'NICE', 'RTPRIO', 'RTTIME'],
];
const TIMES = ['CPU', 'RTTIME'];
const COUNTS = ['NPROC', 'NOFILE', 'LOCKS', 'SIGPENDING', 'NICE', 'RTPRIO'];

const POWERS = 'KMGTPE';

/** systemd.exec(5): `VALUE` or `SOFT:HARD`. Undefined for anything else. */
export function parseResourceLimit(name: string, value: string) {
  const resource = RESOURCE_NAMES.indexOf(name);
  if (resource < 0) return undefined;
  const [soft, hard = soft] = value.split(':').map((part) => amount(part.trim(), name));
  if (soft === undefined || hard === undefined) return undefined;
  return { resource, soft, hard };
}

function amount(text: string, name: string): number | undefined {
  if (text === 'infinity') return Number.POSITIVE_INFINITY;
  if (TIMES.includes(name)) {
    const span = parseTimeSpan(text);
    return span === undefined ? undefined : Math.ceil(span / 1000);
  }
  const match = /^(\d{1,18})([KMGTPE])?$/.exec(text);
  if (match === null || (match[2] !== undefined && COUNTS.includes(name))) return undefined;
  return Number(match[1]) * (match[2] === undefined ? 1 : 1024 ** (POWERS.indexOf(match[2]) + 1));
}

/** The most bytes that variables may add: the kernel's own limit (2 MiB). */
const ARGUMENTS_MAX = 2 * 2 ** 20;

export interface ExecCommand {
  readonly path: string;
  readonly words: readonly Word[];
  /** `-`: its failure does not count. */
  readonly ignoreFailure: boolean;
  /** `+`, `!`, `!!`: as root, whatever User= says. */
  readonly privileged: boolean;
  /** `:`: no variables are replaced. */
  readonly literal: boolean;
  /** `@`: the first word is argv[0], which kiln does not set. */
  readonly renamed: boolean;
}

export function parseExecLine(value: string, context: SpecifierContext): ExecCommand[] | undefined {
  const all = splitWords(value);
  if (all === undefined) return undefined;
  let words: Word[] = [];
  const lines = [words];
  for (const { text, quoted } of all) {
    if (text === ';' && !quoted) {
      words = [];
      lines.push(words);
    } else words.push({ text: text === '\\;' ? ';' : expandSpecifiers(text, context), quoted });
  }
  if (words.length === 0) lines.pop();
  const commands = lines.map(readCommand);
  return commands.every((command) => command !== undefined) ? commands : undefined;
}

function readCommand(words: readonly Word[]): ExecCommand | undefined {
  const [first, ...rest] = words;
  const [, prefixes = '', path = ''] = /^([-@:+!|]*)(.*)$/s.exec(first?.text ?? '') ?? [];
  if (path === '') return undefined;
  const renamed = prefixes.includes('@');
  return {
    path,
    words: renamed ? rest.slice(1) : rest,
    ignoreFailure: prefixes.includes('-'),
    privileged: /[+!]/.test(prefixes),
    literal: prefixes.includes(':'),
    renamed,
  };
}

/**
 * The path first. A word `$NAME` becomes the words of its value (none if unset), `${NAME}` anywhere its
 * value, `$$` a dollar sign. Throws E_UNIT if the result is too long.
 */
export function commandArguments(
  command: ExecCommand,
  environment: Readonly<Record<string, string>>,
): string[] {
  const { path, words, literal } = command;
  if (literal) return [path, ...words.map((word) => word.text)];
  // A few words with many references to a long variable could exceed the host's memory.
  let left = ARGUMENTS_MAX;
  const taken = (text: string): string => {
    left -= text.length;
    if (left >= 0) return text;
    throw new KilnError(
      'E_UNIT',
      `the arguments of ${path} are longer than ${ARGUMENTS_MAX} bytes`,
    );
  };
  const expanded = words.flatMap(({ text }) => {
    const name = /^\$([A-Za-z_][A-Za-z0-9_]*)$/.exec(text)?.[1];
    if (name !== undefined) return plainWords(taken(environment[name] ?? ''));
    return [
      text.replace(/\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}/g, (whole, braced: string | undefined) =>
        braced === undefined ? (whole === '$$' ? '$' : whole) : taken(environment[braced] ?? ''),
      ),
    ];
  });
  return [path, ...expanded];
}

const ASSIGNMENT = /^([A-Za-z_][A-Za-z0-9_]*)=([\s\S]*)$/;

export function parseAssignments(value: string): [string, string][] {
  return (splitWords(value) ?? []).flatMap(({ text }): [string, string][] => {
    const [, name, content] = ASSIGNMENT.exec(text) ?? [];
    return name === undefined || content === undefined ? [] : [[name, content]];
  });
}

/** systemd.exec(5), EnvironmentFile=: as a shell reads NAME=VALUE, without any expansion; # or ; comment. */
export function parseEnvironmentFile(text: string): [string, string][] {
  const variables: [string, string][] = [];
  const joined = text.replace(/\\\n/g, '');
  for (const line of joined.split('\n')) {
    const content = line.trim();
    if (content === '' || /^[#;]/.test(content)) continue;
    const [, name, value] = ASSIGNMENT.exec(content.replace(/^export\s+/, '')) ?? [];
    if (name === undefined || value === undefined) continue;
    variables.push([name, unquoted(value.trim())]);
  }
  return variables;
}

/** A quote that is not closed ends with the line. */
const QUOTED = /'([^']*)'?|"((?:[^"\\]|\\.)*)"?|\\(.)/gs;

function unquoted(value: string): string {
  return value.replace(
    QUOTED,
    (_, single?: string, double?: string, escaped?: string) =>
      single ?? escaped ?? (double ?? '').replace(/\\(["\\$`])/g, '$1'),
  );
}
