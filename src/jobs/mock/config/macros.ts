import { configError, type Place } from './language/problem.ts';
import { asText, type ConfigValue, isDict } from './language/values.ts';

/** Macros that say where rpmbuild puts things: a build of kiln's decides that itself. */
const OWN = new Set(['%_topdir', '%_rpmfilename', '%_platform_multiplier']);

/**
 * The text of an rpm macro file for `config_opts['macros']`; undefined when there is none to write.
 * A macro whose value is None is left to the image.
 * @throws KilnError E_MOCK_CONFIG for a name that is none.
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
    // A line that ends in a backslash goes on.
    lines.push(`${full} ${asText(value).replace(/\n/g, '\\\n')}\n`);
  }
  return lines.length === 0 ? undefined : lines.join('');
}
