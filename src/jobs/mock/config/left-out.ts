import { insteadOf, optionKind } from './option-table.ts';
import { bindMounts, pluginSettings, signPlugin, wantsScanArchive } from './plugins.ts';
import {
  asText,
  type ConfigOptions,
  type ConfigValue,
  type ConfigWarning,
  isDict,
  isList,
  isTrue,
} from './values.ts';

const OWN_WAY = new Set(
  `tmpfs root_cache yum_cache selinux package_state hw_info overlayfs lvm_root buildroot_lock
  sbom_generator ccache bind_mount chroot_scan`.split(/\s+/),
);

/** Options of mock's that are left out where they are set at all. */
const WITHOUT_DEFAULT = new Set(['macrofile', 'useradd']);

const CCACHE =
  'kiln gives a build the cache, its compilers and its size; say the rest in ccache.conf';

/** Of plugins that kiln has: what it does not do, by the value that it does. */
const PLUGIN_OPTIONS: readonly (readonly [
  plugin: string,
  option: string,
  isHere: (value: ConfigValue) => boolean,
  instead: string,
])[] = [
  ['ccache', 'compress', (value) => !isTrue(value), CCACHE],
  ['ccache', 'hashdir', isTrue, CCACHE],
  ['ccache', 'debug', (value) => !isTrue(value), CCACHE],
  ['ccache', 'show_stats', (value) => !isTrue(value), 'run ccache -s at the end of the build'],
  ['ccache', 'dir', (value) => /\/ccache\/u\d+\/$/.test(asText(value)), 'caches lie in KILN_STATE'],
  [
    'package_state',
    'available_pkgs',
    (value) => !isTrue(value),
    'lock.json has the repositories and what was taken of them',
  ],
];

const PLUGINS_LEFT_OUT: Readonly<Record<string, string>> = {
  mount: 'a root sees nothing of the host; use --copyin, or kiln run --bind',
  compress_logs: 'compress the logs in the result folder',
  rpmautospec: 'run it before the build, and give --spec and --sources',
  rpkg_preprocessor: 'run it before the build, and give --spec and --sources',
  pm_request: 'a build does not reach the host; require what it needs',
  export_buildroot_image: 'kiln image export makes OCI images',
  procenv: 'run it with --chroot',
  showrc: 'run rpm --showrc with --chroot',
  scm: 'get the sources first, then give --spec and --sources',
};

export function leftOut(
  options: ConfigOptions,
  enabledPlugins: readonly string[] = [],
): ConfigWarning[] {
  const warnings: ConfigWarning[] = [];
  const warn = (message: string, name: string) => {
    warnings.push({ message, place: options.placeOf(name) });
  };
  const placeOf = (plugin: string) =>
    enabledPlugins.includes(plugin) ? undefined : options.placeOf('plugin_conf');
  warnings.push(...leftOutPlugins(options, placeOf));
  for (const name of options.names()) {
    const kind = optionKind(name);
    if (kind === 'done' || kind === 'own' || options.isDefault(name)) continue;
    if (WITHOUT_DEFAULT.has(name) && !isTrue(options.value(name))) continue;
    if (kind === undefined && isUsedElsewhere(name, options)) continue;
    warn(`${name} is left out: ${insteadOf(name)}`, name);
  }
  return warnings;
}

export function leftOutPlugins(
  options: ConfigOptions,
  placeOf: (plugin: string) => ConfigWarning['place'],
): ConfigWarning[] {
  const left = activePlugins(options).map((plugin) => ({
    message: `the plugin ${plugin} is left out: ${PLUGINS_LEFT_OUT[plugin] ?? 'kiln has nothing like it'}`,
    place: placeOf(plugin),
  }));
  const binds = bindMounts(options).map(({ source }) => ({
    message: `the plugin bind_mount: ${source} is read-only in the root`,
    isOfBind: true,
    place: placeOf('bind_mount'),
  }));
  const archive = {
    message:
      'write_tar of the plugin chroot_scan is left out: the files are in the folder chroot_scan',
    place: placeOf('chroot_scan'),
  };
  const settings = PLUGIN_OPTIONS.flatMap(([plugin, option, isHere, instead]) => {
    const value = pluginSettings(options, plugin)?.get(option);
    if (value === undefined || isHere(value)) return [];
    const message = `${option} of the plugin ${plugin} is left out: ${instead}`;
    return [{ message, place: placeOf(plugin) }];
  });
  return [...left, ...binds, ...(wantsScanArchive(options) ? [archive] : []), ...settings];
}

function activePlugins(options: ConfigOptions): string[] {
  const conf = options.value('plugin_conf');
  if (!isDict(conf)) return [];
  const enabled = [...conf].flatMap(([key, value]) =>
    isTrue(value) ? (/^(.*)_enable$/.exec(key)?.slice(1) ?? []) : [],
  );
  return enabled.filter((name) => {
    if (name === 'sign') return signPlugin(options) === 'other';
    if (name !== 'mount') return !OWN_WAY.has(name);
    // The plugin is enabled by default but has no effect without directories.
    const dirs = pluginSettings(options, name)?.get('dirs');
    return isList(dirs) && dirs.length > 0;
  });
}

function isUsedElsewhere(name: string, options: ConfigOptions): boolean {
  const word = new RegExp(`\\{[{%][^}]*\\b${name.replace(/\W/g, '\\$&')}\\b`);
  return options.names().some((other) => {
    const value = options.raw(other);
    return other !== name && typeof value === 'string' && word.test(value);
  });
}
