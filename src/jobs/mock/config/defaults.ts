import { userInfo } from 'node:os';
import { join } from 'node:path';
import type { StatePaths } from '../../../host/state/paths.ts';
import { ConfigOptions, type ConfigValue } from './language/values.ts';

/** The counterpart of /var/lib/mock, for result directories. */
export function mockDirectory(paths: Pick<StatePaths, 'root'>): string {
  return join(paths.root, 'mock');
}

/**
 * mock's own defaults (setup_default_config_opts of mockbuild/config.py) that configurations read or change.
 * Command lines of package managers are included because configurations add words to them; kiln runs none of
 * them.
 */
export function defaultOptions(
  paths: Pick<StatePaths, 'root'>,
  machine: { readonly arch: string },
): ConfigOptions {
  const options = new ConfigOptions();
  for (const [name, value] of Object.entries(defaults(mockDirectory(paths), machine.arch))) {
    options.set(name, value);
  }
  return options;
}

function defaults(basedir: string, arch: string): Record<string, ConfigValue> {
  const { uid, gid } = userInfo();
  return {
    ...each(true, 'clean check online cleanup_on_success cleanup_on_failure update_before_build'),
    ...each(true, 'dynamic_buildrequires'),
    ...each(false, 'post_install rpmbuild_networking use_host_resolv use_bootstrap mirrored'),
    ...each(false, 'use_bootstrap_image bootstrap_image_ready createrepo_on_rpms nosync'),
    ...each(
      false,
      'external_buildrequires redhat_subscription_required nosync_force no_root_shells',
    ),
    ...each(null, 'rpmbuild_arch repo_arch releasever hostname forcearch short_circuit'),
    ...each(null, 'additional_packages bootstrap_image ssl_ca_bundle_path ssl_extra_certs'),
    ...each('', 'rpmbuild_opts description dnf.conf subscription-manager.conf'),
    ...each('\n[main]\nenabled=0', 'priorities.conf rhnplugin.conf'),
    ...each([], 'chroot_additional_packages module_enable module_install module_setup_commands'),
    ...each([], 'bootstrap_module_enable bootstrap_module_install bootstrap_module_setup_commands'),
    ...each([], 'bootstrap_chroot_additional_packages extra_chroot_dirs copy_host_users'),
    ...each(dict({}), 'repo_arch_map more_buildreqs dnf_vars no-config files'),
    basedir,
    resultdir: '{{basedir}}/{{root}}/result',
    rootdir: '{{basedir}}/{{root}}/root',
    cache_topdir: join(basedir, 'cache'),
    chroothome: '/builddir',
    chrootuser: 'mockbuild',
    chrootgroup: 'mock',
    // mock uses the caller's id. Here the caller is root, and the build user must not be.
    chrootuid: uid === 0 ? 1000 : uid,
    chrootgid: gid === 0 ? 135 : gid,
    rpmbuild_timeout: 0,
    host_arch: arch,
    target_arch: arch,
    isolation: 'auto',
    chroot_setup_cmd: ['groupinstall', 'buildsys-build'],
    package_manager: 'dnf',
    ...packageManagerCommands(),
    rpm_command: '/bin/rpm',
    rpmbuild_command: '/usr/bin/rpmbuild',
    nspawn_args: ['--capability=cap_ipc_lock'],
    ssl_copied_ca_trust_dirs: [
      ['/etc/pki/ca-trust', '/etc/pki/ca-trust'],
      ['/usr/share/pki/ca-trust-source', '/usr/share/pki/ca-trust-source'],
    ],
    exclude_from_homedir_cleanup: ['build/SOURCES', '.bash_history', '.bashrc'],
    package_manager_max_attempts: 1,
    package_manager_attempt_delay: 10,
    dynamic_buildrequires_max_loops: 10,
    user_agent: 'Mock ({{ root }}; {{ target_arch }})',
    macros: dict({
      '%_topdir': '/builddir/build',
      '%_rpmfilename': '%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm',
    }),
    environment: dict({
      TERM: 'vt100',
      SHELL: '/bin/bash',
      HOME: '/builddir',
      HOSTNAME: 'mock',
      PATH: '/usr/bin:/bin:/usr/sbin:/sbin',
      LANG: 'C.UTF-8',
    }),
    plugins: [...PLUGINS],
    plugin_conf: pluginDefaults(),
  };
}

function each(value: ConfigValue, names: string): Record<string, ConfigValue> {
  return Object.fromEntries(names.split(' ').map((name) => [name, structuredClone(value)]));
}

function packageManagerCommands(): Record<string, ConfigValue> {
  const common = '--setopt=deltarpm=False --setopt=allow_vendor_change=yes --allowerasing';
  const options = common.split(' ');
  return {
    yum_command: '/usr/bin/yum',
    yum_system_command: '/usr/bin/yum',
    yum_install_command: 'install yum yum-utils',
    yum_builddep_command: '/usr/bin/yum-builddep',
    yum_builddep_opts: [],
    yum_common_opts: [],
    dnf4_command: '/usr/bin/dnf-3',
    dnf4_system_command: '/usr/bin/dnf-3',
    dnf4_install_command: 'install python3-dnf python3-dnf-plugins-core',
    dnf4_common_opts: [...options],
    dnf4_disable_plugins: ['local', 'spacewalk', 'versionlock'],
    dnf5_command: '/usr/bin/dnf5',
    dnf5_system_command: '/usr/bin/dnf5',
    dnf5_install_command: 'install dnf5 dnf5-plugins',
    dnf5_common_opts: [...options],
    dnf5_disable_plugins: [],
    microdnf_command: '/usr/bin/microdnf',
    microdnf_install_command: 'dnf-install microdnf dnf dnf-plugins-core',
    microdnf_common_opts: [],
  };
}

/** mock's plugins (mockbuild.config.PLUGIN_LIST); `bootstrap` is only scrubbed. */
const PLUGINS =
  `tmpfs root_cache yum_cache mount bind_mount ccache selinux package_state chroot_scan lvm_root
  overlayfs compress_logs sign pm_request hw_info procenv showrc rpkg_preprocessor rpmautospec
  buildroot_lock export_buildroot_image sbom_generator scm`.split(/\s+/);

const ENABLED = new Set(
  'root_cache yum_cache mount bind_mount selinux package_state hw_info'.split(' '),
);

function pluginDefaults(): ConfigValue {
  const conf: Record<string, ConfigValue> = {};
  for (const name of PLUGINS) {
    conf[`${name}_enable`] = ENABLED.has(name);
    conf[`${name}_opts`] = dict({});
  }
  conf.bind_mount_opts = dict({ dirs: [], create_dirs: false });
  conf.mount_opts = dict({ dirs: [] });
  conf.chroot_scan_opts = dict({
    regexes: ['^[^k]?core(\\.\\d+)?$', '\\.log$'],
    only_failed: true,
    write_tar: false,
  });
  conf.ccache_opts = dict({ max_cache_size: '4G' });
  return dict(conf);
}

function dict(entries: Record<string, ConfigValue>): Map<string, ConfigValue> {
  return new Map(Object.entries(entries));
}
