import type { UnitSetting } from './unit-file.ts';

const TRUE = new Set(['1', 'yes', 'y', 'true', 't', 'on']);
const FALSE = new Set(['0', 'no', 'n', 'false', 'f', 'off']);

/** The settings of a unit and its drop-ins, in the order in which they count. */
export class SettingList {
  readonly #settings: readonly UnitSetting[];

  constructor(settings: readonly UnitSetting[]) {
    this.#settings = settings;
  }

  /** The last value; undefined if there is none or it is empty. */
  last(...keys: readonly string[]): string | undefined {
    return this.#settings.findLast(({ key }) => keys.includes(key))?.value || undefined;
  }

  /** All values that add up: an empty one takes back those before it. */
  all(...keys: readonly string[]): string[] {
    let values: string[] = [];
    for (const { key, value } of this.#settings) {
      if (!keys.includes(key)) continue;
      if (value === '') values = [];
      else values.push(value);
    }
    return values;
  }

  /** Whether it was set at all, be it to nothing. */
  has(key: string): boolean {
    return this.#settings.some((setting) => setting.key === key);
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = this.last(key)?.toLowerCase() ?? '';
    if (TRUE.has(value)) return true;
    return FALSE.has(value) ? false : fallback;
  }
}
