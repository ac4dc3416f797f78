import { configError, type Place } from './language/problem.ts';
import { asText, type ConfigValue, isDict } from './language/values.ts';

/** Macros for rpmbuild's folders, which kiln's builds choose themselves. */
const OWN = new Set(['%_topdir', '%_rpmfilename', '%_platform_multiplier']);

/**
 * The text of an rpm macro file for `config_opts['macros']`; undefined if there are no macros. A macro with the
 * value None is left to the image. @throws KilnError E_MOCK_CONFIG for an invalid name.
 */
export function macroFile(macros: ConfigValue, place: Place | undefined): string | undefined {
  if (!isDict(macros)) throw configError('macros must be a dict', place);
  const lines: string[] = [];
  for (const [name, value] of macros) {
    const full = name.startsWith('%') ? name : `%${name}`;
    if (!/^%[A-Za-z_]\w*(?:\([^)\s]*\))?$/.test(full)) {
      throw configError(`${JSON.stringify(name)} is no name of a macro`, place);
    }
    if (value === null || OWN.has(full)) continue;
    // A backslash at the end continues the line.
    lines.push(`${full} ${asText(value).replace(/\n/g, '\\\n')}\n`);
  }
  return lines.length === 0 ? undefined : lines.join('');
}
