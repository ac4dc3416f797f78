import { configError } from './language/problem.ts';
import type { ConfigOptions, ConfigValue } from './language/values.ts';

/**
 * Applies `--config-opts KEY=VALUE`: `true`, `false`, `none` and whole numbers become such values; a repeated
 * key becomes a list.
 * @throws KilnError E_MOCK_CONFIG
 */
export function overrideOptions(options: ConfigOptions, texts: readonly string[]): void {
  const values = new Map<string, ConfigValue>();
  for (const text of texts) {
    const [, key, written = ''] = /^([^=]+)=(.*)$/s.exec(text) ?? [];
    if (key === undefined) {
      throw configError(`--config-opts ${text}: it is written KEY=VALUE`);
    }
    const before = values.get(key);
    if (before === undefined) values.set(key, read(written));
    // An empty value makes a list of the earlier ones.
    else {
      const list = Array.isArray(before) ? before : [before];
      values.set(key, written === '' ? list : [...list, read(written)]);
    }
  }
  for (const [key, value] of values) options.set(key, value);
}

function read(text: string): ConfigValue {
  if (/^[Tt]rue$/.test(text)) return true;
  if (/^[Ff]alse$/.test(text)) return false;
  if (/^[Nn]one$/.test(text)) return null;
  return /^-?\d+$/.test(text) ? Number(text) : text;
}
