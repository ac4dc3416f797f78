import { bindMounts, pluginSettings, signPlugin, wantsScanArchive } from './plugins.ts';
import { type ConfigOptions, type ConfigWarning, isDict, isList, isTrue } from './values.ts';

/** Options of mock's that have no default. */
const WITHOUT_DEFAULT = new Set(
  `root description dnf.conf legal_host_arches config_path config_file chroot_name config_paths dist use_nspawn
  log_config_file build_log_fmt_name root_log_fmt_name state_log_fmt_name print_main_output
  stderr_line_prefix use_bootstrap_container internal_dev_setup dev_loop_count tar tar_binary
  backup_on_clean backup_base_dir seccomp opstimeout use_host_shadow_utils
  use_container_host_hostname docker_unshare_warning recursion_limit mock_run_uuid version
  plugin_dir cache_alterations createrepo_command sbom_generator qemu_user_static_mapping
  useradd`.split(/\s+/),
);

const OWN_ROOT =
  'a root is made of packages; `kiln image import` takes OCI images, and `kiln build -r NAME` builds in one';

/** Options that change a build and are not supported: why, and what to do instead. */
const LEFT_OUT: Readonly<Record<string, string>> = {
  macrofile: "put the macros into config_opts['macros'], or give --macro-file",
  scm: 'get the sources first, then give --spec and --sources',
  external_buildrequires:
    'what pip or cargo bring is signed by nobody: require RPM packages, or have it in the sources',
  redhat_subscription_required:
    'kiln has no subscription-manager: give sslclientcert and sslclientkey in dnf.conf',
  ssl_ca_bundle_path:
    "the image has the certificates of its packages: add others with config_opts['files']",
  ssl_extra_certs: "add them with config_opts['files']",
  use_buildroot_image: OWN_ROOT,
  buildroot_image: OWN_ROOT,
  forcearch: 'kiln builds for what this machine can run',
  no_root_shells: '--shell and --chroot are for the caller of kiln-mock',
};

const OWN_WAY = new Set(
  `tmpfs root_cache yum_cache selinux package_state hw_info overlayfs lvm_root buildroot_lock
  sbom_generator ccache bind_mount chroot_scan`.split(/\s+/),
);

const PLUGINS_LEFT_OUT: Readonly<Record<string, string>> = {
  mount: 'a root sees nothing of the host; use --copyin, or kiln run --bind',
  compress_logs: 'compress the logs in the result directory',
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
  for (const [name, instead] of Object.entries(LEFT_OUT)) {
    if (isTrue(options.value(name))) warn(`${name} is left out: ${instead}`, name);
  }
  const placeOf = (plugin: string) =>
    enabledPlugins.includes(plugin) ? undefined : options.placeOf('plugin_conf');
  warnings.push(...leftOutPlugins(options, placeOf));
  for (const name of options.names()) {
    if (options.isMocks(name) || WITHOUT_DEFAULT.has(name) || name in LEFT_OUT) continue;
    if (options.placeOf(name) === undefined) continue;
    if (/^(?:bootstrap_|dnf\d?_|yum_|microdnf_|system_)/.test(name)) continue;
    if (!isUsedElsewhere(name, options))
      warn(`${name} is left out: it is no option of mock's`, name);
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
    place: placeOf('bind_mount'),
  }));
  const archive = {
    message:
      'write_tar of the plugin chroot_scan is left out: the files are in the folder chroot_scan',
    place: placeOf('chroot_scan'),
  };
  return [...left, ...binds, ...(wantsScanArchive(options) ? [archive] : [])];
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
