import { KilnError } from '../../../errors.ts';

export type ConfigValue =
  | string
  | number
  | boolean
  | null
  | readonly ConfigValue[]
  | ConfigDict
  | undefined;

export type ConfigDict = ReadonlyMap<string, ConfigValue>;

/** An option as Python has it. What has no counterpart here, or whose template cannot be filled in, has an `error`. */
export interface ConfigOption {
  readonly raw?: ConfigValue;
  readonly value?: ConfigValue;
  /** Python's repr() of both. */
  readonly rawText?: string | undefined;
  readonly valueText?: string | undefined;
  readonly error?: string | undefined;
  /** It is what mock sets before it reads a configuration. */
  readonly isDefault: boolean;
  /** Where a configuration set or changed it last; undefined if none did. */
  readonly place?: Place | undefined;
}

/** What a configuration comes to: mock's config_opts. Names are mock's newest: `dnf.conf`, not `yum.conf`. */
export class ConfigOptions {
  readonly #options: ReadonlyMap<string, ConfigOption>;

  constructor(options: ReadonlyMap<string, ConfigOption>) {
    this.#options = options;
  }

  /** With its templates filled in. @throws KilnError E_MOCK_CONFIG where they cannot be */
  value(name: string): ConfigValue {
    const option = this.#options.get(name);
    if (option?.error === undefined) return option?.value;
    throw configError(`${name}: ${option.error}`, option.place);
  }

  raw(name: string): ConfigValue {
    return this.#options.get(name)?.raw;
  }

  has(name: string): boolean {
    return this.#options.has(name);
  }

  names(): string[] {
    return [...this.#options.keys()];
  }

  placeOf(name: string): Place | undefined {
    return this.#options.get(name)?.place;
  }

  isDefault(name: string): boolean {
    return this.#options.get(name)?.isDefault ?? true;
  }

  /** As a configuration would say it. @throws as {@link value} */
  literal(name: string, { expanded }: { readonly expanded: boolean }): string {
    const option = this.#options.get(name);
    const text = expanded ? option?.valueText : option?.rawText;
    if (text !== undefined) return text;
    throw configError(`${name}: ${option?.error ?? 'it has no value'}`, option?.place);
  }
}

export function isDict(value: ConfigValue): value is ConfigDict {
  return value instanceof Map;
}

export function isList(value: ConfigValue): value is readonly ConfigValue[] {
  return Array.isArray(value);
}

/** As Python has it. */
export function isTrue(value: ConfigValue): boolean {
  if (isList(value)) return value.length > 0;
  return isDict(value) ? value.size > 0 : Boolean(value);
}

/** Python's str(). */
export function asText(value: ConfigValue): string {
  return typeof value === 'string' ? value : asLiteral(value);
}

/** Python's repr(), close enough for Python to read back. */
function asLiteral(value: ConfigValue): string {
  if (value === null || value === undefined) return 'None';
  if (value === true) return 'True';
  if (value === false) return 'False';
  if (typeof value === 'number') return String(value);
  if (typeof value === 'string') return JSON.stringify(value);
  if (isList(value)) return `[${value.map(asLiteral).join(', ')}]`;
  const entries = [...value].map(([key, inner]) => `${asLiteral(key)}: ${asLiteral(inner)}`);
  return `{${entries.join(', ')}}`;
}

export interface Place {
  readonly file: string;
  readonly line: number;
}

export interface ConfigWarning {
  readonly message: string;
  readonly place?: Place | undefined;
  /** It is about a bind, which is writable where the command line names it. */
  readonly isOfBind?: boolean;
}

export function formatPlace({ file, line }: Place): string {
  return `${file}:${line}`;
}

/** The words of a command that a configuration has as a text or as a list. */
export function commandWords(value: ConfigValue): string[] {
  const words = isList(value) ? value.map(asText) : asText(value ?? '').split(/\s+/);
  return words.filter(Boolean);
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
