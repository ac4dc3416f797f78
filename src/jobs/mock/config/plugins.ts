import { isAbsolute, normalize } from 'node:path';
import { KilnError } from '../../../errors.ts';
import type { WantedBind } from '../../../sandbox/policy/specification.ts';
import { shellWords } from '../../../shell-words.ts';
import type { BuildRequest } from '../../rpmbuild/request.ts';
import type { ConfigChange } from './evaluate.ts';
import {
  asText,
  type ConfigDict,
  type ConfigOptions,
  type ConfigValue,
  configError,
  isDict,
  isList,
  isTrue,
} from './values.ts';

export interface PluginSwitches {
  readonly disabled: readonly string[];
  readonly enabled: readonly string[];
  readonly settings: readonly string[];
}

/**
 * What `--disable-plugin`, `--enable-plugin` and `--plugin-option` change, in mock's order: enabling wins over
 * disabling, and an option alone enables nothing. @throws KilnError E_MOCK_USAGE
 */
export function pluginChanges({ disabled, enabled, settings }: PluginSwitches): ConfigChange[] {
  return [
    ...disabled.map((name) => ['plugin', name, false] as const),
    ...enabled.map((name) => ['plugin', name, true] as const),
    ...settings.map((text) => {
      const { name, key, value } = pluginOption(text);
      return ['plugin-option', name, key, value] as const;
    }),
  ];
}

function pluginOption(text: string) {
  const [, name, key, value = ''] = /^([^:]+):([^=]+)=(.*)$/s.exec(text) ?? [];
  if (name !== undefined && key !== undefined) return { name, key, value };
  throw usageError(`--plugin-option ${text}: it is written PLUGIN:KEY=VALUE`);
}

/** Whether the command line says what bind_mount mounts. */
export function namesBinds({ settings }: PluginSwitches): boolean {
  return settings.some((text) => text.startsWith('bind_mount:dirs='));
}

/** @throws KilnError E_MOCK_USAGE for a plugin that the configuration does not know */
export function checkPlugins(
  options: ConfigOptions,
  { disabled, enabled, settings }: PluginSwitches,
): void {
  const plugins = options.value('plugins');
  const known = isList(plugins) ? plugins.map(asText) : [];
  const given = [
    ...disabled.map((name) => [name, `--disable-plugin ${name}`] as const),
    ...enabled.map((name) => [name, `--enable-plugin ${name}`] as const),
    ...settings.map((text) => [pluginOption(text).name, `--plugin-option ${text}`] as const),
  ];
  for (const [name, option] of given) {
    if (known.includes(name)) continue;
    throw usageError(`${option}: there is no plugin ${name}`, `mock's are ${known.join(', ')}`);
  }
}

function usageError(message: string, hint?: string): KilnError {
  return new KilnError('E_MOCK_USAGE', message, { hint });
}

export function pluginSettings(options: ConfigOptions, name: string): ConfigDict | undefined {
  const conf = options.value('plugin_conf');
  if (!isDict(conf) || !isTrue(conf.get(`${name}_enable`))) return undefined;
  const settings = conf.get(`${name}_opts`);
  return isDict(settings) ? settings : new Map();
}

/**
 * The binds of the plugin bind_mount, `(path on the host, path in the root)` each. mock binds them writable; here
 * they are read-only, because neither a configuration nor a build must change the host.
 * @throws KilnError E_MOCK_CONFIG for anything but pairs of absolute paths
 */
export function bindMounts(options: ConfigOptions): WantedBind[] {
  const dirs = pluginSettings(options, 'bind_mount')?.get('dirs');
  return isList(dirs) ? dirs.map(bindMount) : [];
}

function bindMount(pair: ConfigValue): WantedBind {
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

export interface SignPlugin {
  readonly name: string | undefined;
  readonly home: string | undefined;
}

const DEFINE = /^(?:-D|--define)$/;
const PLAIN = new Set(['--addsign', '--resign', '%(rpms)s']);

/**
 * The plugin's key. The command does not run, because kiln signs itself; only rpmsign with a key is supported.
 * @returns undefined if it is off; `other` for any other command
 */
export function signPlugin(options: ConfigOptions): SignPlugin | 'other' | undefined {
  const settings = pluginSettings(options, 'sign');
  if (settings === undefined) return undefined;
  const command = asText(settings.get('cmd') ?? 'rpmsign');
  if (!/^(?:\/usr\/bin\/)?(?:rpmsign|rpm)$/.test(command)) return 'other';
  let name: string | undefined;
  let home: string | undefined;
  const text = asText(settings.get('opts') ?? '--addsign %(rpms)s');
  // mock fills the command in with Python's % operator.
  const words = shellWords(text).map((word) => word.replaceAll('%%', '%'));
  for (let at = 0; at < words.length; at++) {
    const word = words[at] ?? '';
    if (PLAIN.has(word)) continue;
    const keyId = /^--key-id(?:=(.+))?$/.exec(word);
    if (keyId !== null) {
      name = keyId[1] ?? words[++at];
      continue;
    }
    const attached = /^(?:--define=|-D)(.+)$/s.exec(word)?.[1];
    const define = DEFINE.test(word) ? words[++at] : attached;
    const [, macro, value] = /^\s*%?_gpg_(name|path)\s+(.+?)\s*$/s.exec(define ?? '') ?? [];
    if (macro === 'name') name = value;
    else if (macro === 'path') home = value;
    else return 'other';
  }
  return { name, home };
}

export function omittedFiles(options: ConfigOptions): NonNullable<BuildRequest['omit']> {
  const conf = options.value('plugin_conf');
  const isOff = (name: string) => isDict(conf) && !isTrue(conf.get(`${name}_enable`));
  const listed = pluginSettings(options, 'package_state')?.get('installed_pkgs') ?? true;
  return [
    ...(isOff('hw_info') ? (['hw_info.log'] as const) : []),
    ...(isOff('package_state') || !isTrue(listed) ? (['installed_pkgs.log'] as const) : []),
  ];
}

export function ccacheSize(options: ConfigOptions): string | undefined {
  const settings = pluginSettings(options, 'ccache');
  return settings && asText(settings.get('max_cache_size') ?? '4G');
}

/** Parts of Python's regular expressions that JavaScript lacks, or reads otherwise. */
const ONLY_PYTHON = /\\[AZ]|\(\?(?:P|#|\(|[aiLmsux]+[):-])/;

/**
 * The plugin chroot_scan: which files of a build's root are copied, by their names; undefined if it is off.
 * @throws KilnError E_MOCK_CONFIG for a regular expression that cannot be read
 */
export function chrootScan(options: ConfigOptions): BuildRequest['scan'] {
  const settings = pluginSettings(options, 'chroot_scan');
  const regexes = settings?.get('regexes');
  if (settings === undefined || !isList(regexes) || regexes.length === 0) return undefined;
  // Python writes True on a command line; mock compares the text.
  const onlyFailed = asText(settings.get('only_failed') ?? true) === asText(true);
  return { pattern: regexes.map(asText).map(readable).join('|'), onlyFailed };
}

export function wantsScanArchive(options: ConfigOptions): boolean {
  const archive = pluginSettings(options, 'chroot_scan')?.get('write_tar');
  return chrootScan(options) !== undefined && isTrue(archive);
}

function readable(source: string): string {
  try {
    if (ONLY_PYTHON.test(source)) throw new SyntaxError('it has what only Python has');
    return new RegExp(source).source;
  } catch (cause) {
    const what = `chroot_scan_opts: the regular expression ${source} cannot be read`;
    throw configError(what, undefined, {
      cause,
      hint: 'regular expressions are those of JavaScript: no (?P<name>), (?i), \\A, \\Z',
    });
  }
}
