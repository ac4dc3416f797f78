import type { UnitDirectory } from './service-unit.ts';
import type { SettingList } from './setting-list.ts';
import { plainWords } from './words.ts';

const DIRECTORY_KINDS = [
  { key: 'RuntimeDirectory', base: '/run', variable: 'RUNTIME_DIRECTORY' },
  { key: 'StateDirectory', base: '/var/lib', variable: 'STATE_DIRECTORY' },
  { key: 'CacheDirectory', base: '/var/cache', variable: 'CACHE_DIRECTORY' },
  { key: 'LogsDirectory', base: '/var/log', variable: 'LOGS_DIRECTORY' },
  { key: 'ConfigurationDirectory', base: '/etc', variable: 'CONFIGURATION_DIRECTORY' },
] as const;

/**
 * What RuntimeDirectory= and its kin ask for (systemd.exec(5)); a link after a colon is not made,
 * and what would lie elsewhere is left out.
 */
export function readDirectories(
  service: SettingList,
  expand: (text: string) => string,
): UnitDirectory[] {
  return DIRECTORY_KINDS.flatMap(({ key, base, variable }) => {
    const mode = Number.parseInt(service.last(`${key}Mode`) ?? '0755', 8) & 0o7777;
    const rootOwned = key === 'ConfigurationDirectory';
    return service
      .all(key)
      .flatMap((value) => plainWords(expand(value)))
      .map((word) => word.split(':')[0] ?? '')
      .filter((path) => /^[^/]/.test(path) && !path.split('/').includes('..'))
      .map((path) => ({ path: `${base}/${path}`, mode, variable, rootOwned }));
  });
}
