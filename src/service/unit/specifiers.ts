/** The values of specifiers (systemd.unit(5), "Specifiers"). */
export interface SpecifierContext {
  /** The unit's whole name: `postgresql@17-main.service`. */
  readonly unit: string;
  readonly hostname: string;
  readonly machineId: string;
  /** The user of `User=`; root by default. */
  readonly user: { readonly name: string; readonly uid: number; readonly home: string };
  readonly group: { readonly name: string; readonly gid: number };
}

/** The parts of a unit's name: `postgresql@17-main.service` is postgresql, 17-main, service. */
interface UnitNameParts {
  readonly prefix: string;
  readonly instance: string | undefined;
  readonly suffix: string;
}

export function unitNameParts(name: string): UnitNameParts {
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

/** The value of each specifier. */
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
