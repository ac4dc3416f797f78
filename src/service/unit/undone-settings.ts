import { GIVEN, HONOURED, UNSUPPORTED } from './keys.ts';
import type { UnitSetting } from './unit-file.ts';

/** Sections of a service unit (systemd.service(5)); those that begin with X- are anybody's. */
const SECTIONS = ['Unit', 'Service', 'Install'];

/** What of a unit is somebody's mistake, with its place, and what kiln does not do, by name. */
export function undoneSettings(settings: readonly UnitSetting[]): string[] {
  const warnings: string[] = [];
  const unsupported = new Set<string>();
  for (const { section, key, value, file, line } of settings) {
    if (section.startsWith('X-') || key.startsWith('X-')) continue;
    if (!SECTIONS.includes(section)) {
      warnings.push(`${file}:${line}: section [${section}] means nothing for a service`);
    } else if (UNSUPPORTED.has(key)) {
      if (value !== '') unsupported.add(key);
    } else if (!HONOURED.has(key) && !GIVEN.has(key)) {
      warnings.push(`${file}:${line}: unknown setting ${key}=`);
    }
  }
  if (unsupported.size > 0) warnings.push(`not done: ${[...unsupported].join('=, ')}=`);
  return warnings;
}
