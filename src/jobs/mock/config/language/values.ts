import { KilnError } from '../../../../errors.ts';

export type ConfigValue =
  | string
  | number
  | boolean
  | null
  | readonly ConfigValue[]
  | ConfigDict
  | undefined;

export type ConfigDict = Map<string, ConfigValue>;

/** Names of the same option; the first name is used (mock's `alias_spec`). */
const ALIASES: Readonly<Record<string, string>> = {
  'yum.conf': 'dnf.conf',
  'dnf5.conf': 'dnf.conf',
  'dnf4.conf': 'dnf.conf',
  dnf_command: 'dnf4_command',
  dnf_common_opts: 'dnf4_common_opts',
  dnf_install_command: 'dnf4_install_command',
  dnf_disable_plugins: 'dnf4_disable_plugins',
  dnf_avoid_opts: 'dnf4_avoid_opts',
  dnf_builddep_opts: 'dnf4_builddep_opts',
  system_dnf_command: 'dnf4_system_command',
  system_dnf4_command: 'dnf4_system_command',
  system_dnf5_command: 'dnf5_system_command',
  system_yum_command: 'yum_system_command',
  system_microdnf_command: 'microdnf_system_command',
};

export class ConfigOptions {
  readonly #values: ConfigDict = new Map();
  readonly #places = new Map<string, Place>();

  get(name: string): ConfigValue {
    return this.#values.get(canonical(name));
  }

  has(name: string): boolean {
    return this.#values.has(canonical(name));
  }

  set(name: string, value: ConfigValue, place?: Place): void {
    this.#values.set(canonical(name), value);
    if (place !== undefined) this.#places.set(canonical(name), place);
  }

  delete(name: string): void {
    this.#values.delete(canonical(name));
  }

  names(): string[] {
    return [...this.#values.keys()];
  }

  placeOf(name: string): Place | undefined {
    return this.#places.get(canonical(name));
  }

  touch(name: string, place: Place): void {
    this.#places.set(canonical(name), place);
  }
}

function canonical(name: string): string {
  return ALIASES[name] ?? name;
}

export function isDict(value: ConfigValue): value is ConfigDict {
  return value instanceof Map;
}

export function isList(value: ConfigValue): value is readonly ConfigValue[] {
  return Array.isArray(value);
}

export function isTrue(value: ConfigValue): boolean {
  if (isList(value)) return value.length > 0;
  return isDict(value) ? value.size > 0 : Boolean(value);
}

export function asText(value: ConfigValue): string {
  return typeof value === 'string' ? value : asLiteral(value);
}

/** Python's repr(), close enough for Python to read back. */
export function asLiteral(value: ConfigValue): string {
  if (value === null || value === undefined) return 'None';
  if (value === true) return 'True';
  if (value === false) return 'False';
  if (typeof value === 'number') return String(value);
  if (typeof value === 'string') return quote(value);
  if (isList(value)) return `[${value.map(asLiteral).join(', ')}]`;
  const entries = [...value].map(([key, inner]) => `${quote(key)}: ${asLiteral(inner)}`);
  return `{${entries.join(', ')}}`;
}

const ESCAPES: Readonly<Record<string, string>> = {
  '\\': '\\\\',
  '\n': '\\n',
  '\r': '\\r',
  '\t': '\\t',
};

function quote(text: string): string {
  const hex = (character: string) => character.charCodeAt(0).toString(16).padStart(2, '0');
  const escaped = text.replace(/[\\\0-\x1f\x7f]/g, (it) => ESCAPES[it] ?? `\\x${hex(it)}`);
  if (escaped.includes("'") && !escaped.includes('"')) return `"${escaped}"`;
  return `'${escaped.replace(/'/g, "\\'")}'`;
}

export interface Place {
  readonly file: string;
  readonly line: number;
}

export interface ConfigWarning {
  readonly message: string;
  readonly place?: Place | undefined;
}

export function formatPlace({ file, line }: Place): string {
  return `${file}:${line}`;
}

/** The error for a configuration that cannot be used: without the unknown part, the build would be another. */
export function configError(
  message: string,
  place?: Place,
  more: { readonly hint?: string; readonly cause?: unknown } = {},
): KilnError {
  const where = place === undefined ? '' : `${formatPlace(place)}: `;
  return new KilnError('E_MOCK_CONFIG', `${where}${message}`, {
    ...more,
    ...(place === undefined ? {} : { details: { place } }),
  });
}
