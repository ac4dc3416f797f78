/** What specifiers stand for (systemd.unit(5), "Specifiers"). */
export interface SpecifierContext {
  /** The unit's whole name: `postgresql@17-main.service`. */
  readonly unit: string;
  readonly hostname: string;
  readonly machineId: string;
  /** Of `User=`; root when it has none. */
  readonly user: { readonly name: string; readonly uid: number; readonly home: string };
  readonly group: { readonly name: string; readonly gid: number };
}

/** A unit's name in parts: `postgresql@17-main.service` is postgresql, 17-main, service. */
export function unitNameParts(name: string): {
  readonly prefix: string;
  readonly instance: string | undefined;
  readonly suffix: string;
} {
  const dot = name.lastIndexOf('.');
  const stem = name.slice(0, dot);
  const at = stem.indexOf('@');
  return {
    prefix: at < 0 ? stem : stem.slice(0, at),
    instance: at < 0 ? undefined : stem.slice(at + 1),
    suffix: name.slice(dot + 1),
  };
}

/** `foo-bar\x2dbaz` as a path's part means `foo/bar-baz` (systemd-escape(1)). */
export function unescapeUnitName(text: string): string {
  return text
    .replaceAll('-', '/')
    .replace(/\\x([0-9a-f]{2})/g, (_, hex: string) =>
      String.fromCharCode(Number.parseInt(hex, 16)),
    );
}

/** Where the directories of a system service are. */
const DIRECTORIES: Readonly<Record<string, string>> = {
  t: '/run',
  S: '/var/lib',
  C: '/var/cache',
  L: '/var/log',
  E: '/etc',
  T: '/tmp',
  V: '/var/tmp',
};

/** Replaces specifiers; `%%` is a per cent sign, and what nobody knows stays as it is. */
export function expandSpecifiers(text: string, context: SpecifierContext): string {
  return text.replace(/%(.)/g, (whole, letter: string) => specifier(letter, context) ?? whole);
}

function specifier(letter: string, context: SpecifierContext): string | undefined {
  const { unit } = context;
  const { prefix, instance = '', suffix } = unitNameParts(unit);
  switch (letter) {
    case '%':
      return '%';
    case 'n':
      return unit;
    case 'N':
      return unit.slice(0, -suffix.length - 1);
    case 'p':
      return prefix;
    case 'P':
      return unescapeUnitName(prefix);
    case 'i':
      return instance;
    case 'I':
      return unescapeUnitName(instance);
    case 'j':
      return prefix.slice(prefix.lastIndexOf('-') + 1);
    case 'J':
      return unescapeUnitName(prefix.slice(prefix.lastIndexOf('-') + 1));
    case 'f':
      return `/${unescapeUnitName(instance || prefix)}`;
    case 'H':
    case 'q':
      return context.hostname;
    case 'l':
      return context.hostname.split('.')[0];
    case 'm':
      return context.machineId;
    case 'u':
      return context.user.name;
    case 'U':
      return String(context.user.uid);
    case 'h':
      return context.user.home;
    case 'g':
      return context.group.name;
    case 'G':
      return String(context.group.gid);
    case 's':
      return '/bin/sh';
    default:
      return DIRECTORIES[letter];
  }
}
