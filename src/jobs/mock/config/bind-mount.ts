import { isAbsolute, normalize } from 'node:path';
import type { Bind } from '../../../sandbox/policy/specification.ts';
import { configError } from './language/problem.ts';
import type { Templates } from './language/template.ts';
import { asText, type ConfigValue, isDict, isList, isTrue } from './language/values.ts';

/**
 * The binds of the plugin bind_mount, `(path on the host, path in the root)` each. mock binds them writable;
 * here they are read-only, because a build must not change the host.
 * @throws KilnError E_MOCK_CONFIG for what is no pair of absolute paths.
 */
export function bindMounts(templates: Templates): Bind[] {
  const conf = templates.value('plugin_conf');
  if (!isDict(conf) || !isTrue(conf.get('bind_mount_enable'))) return [];
  const settings = conf.get('bind_mount_opts');
  const dirs = isDict(settings) ? settings.get('dirs') : undefined;
  return isList(dirs) ? dirs.map(bindMount) : [];
}

function bindMount(pair: ConfigValue): Bind {
  const [source, target, ...more] = isList(pair) ? pair.map(asText) : [];
  if (source === undefined || target === undefined || more.length > 0) {
    throw configError('bind_mount_opts: dirs has pairs, (path on the host, path in the root)');
  }
  // mock accepts a path in the root without its slash.
  const inRoot = normalize(`/${target}`).replace(/(.)\/$/, '$1');
  if (!isAbsolute(source) || inRoot === '/') {
    throw configError(`bind_mount_opts: ${source} and ${target} are not two absolute paths`);
  }
  return { source: normalize(source), target: inRoot, readonly: true };
}
