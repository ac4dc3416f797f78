import type { Place } from './problem.ts';

/** A value of a configuration: one of Python's plain values. Tuples are lists here. */
export type ConfigValue =
  | string
  | number
  | boolean
  | null
  | readonly ConfigValue[]
  | ConfigDict
  | undefined;

/** A Python dict with text as keys. */
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

/** The options of a configuration: mock's `config_opts`. */
export class ConfigOptions {
  readonly #values: ConfigDict = new Map();
  readonly #places = new Map<string, Place>();

  get(name: string): ConfigValue {
    return this.#values.get(canonical(name));
  }

  has(name: string): boolean {
    return this.#values.has(canonical(name));
  }

  /** `place` is where the option was set; none for a default. */
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

  /** Where an option was last set; undefined where it has its default. */
  placeOf(name: string): Place | undefined {
    return this.#places.get(canonical(name));
  }

  /** Notes that a part of an option was changed. */
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

/** The value of Python's bool(). */
export function isTrue(value: ConfigValue): boolean {
  if (isList(value)) return value.length > 0;
  return isDict(value) ? value.size > 0 : Boolean(value);
}

/** The value of Python's str(). */
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

function quote(text: string): string {
  const escaped = text
    .replace(/\\/g, '\\\\')
    .replace(/\n/g, '\\n')
    .replace(/\r/g, '\\r')
    .replace(/\t/g, '\\t')
    .replace(
      /[\0-\x1f\x7f]/g,
      (control) => `\\x${control.charCodeAt(0).toString(16).padStart(2, '0')}`,
    );
  if (escaped.includes("'") && !escaped.includes('"')) return `"${escaped}"`;
  return `'${escaped.replace(/'/g, "\\'")}'`;
}
