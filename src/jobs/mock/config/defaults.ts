import { userInfo } from 'node:os';
import { join } from 'node:path';
import type { StatePaths } from '../../../host/state/paths.ts';
import { ConfigOptions, type ConfigValue } from './language/values.ts';

/** The counterpart of /var/lib/mock: result directories that nobody named. */
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
    basedir,
    resultdir: '{{basedir}}/{{root}}/result',
    rootdir: '{{basedir}}/{{root}}/root',
    cache_topdir: join(basedir, 'cache'),
    clean: true,
    check: true,
    post_install: false,
    online: true,
    chroothome: '/builddir',
    chrootuser: 'mockbuild',
    chrootgroup: 'mock',
    // mock uses the caller's id. Here the caller is root, and the build user must not be.
    chrootuid: uid === 0 ? 1000 : uid,
    chrootgid: gid === 0 ? 135 : gid,
    rpmbuild_timeout: 0,
    host_arch: arch,
    target_arch: arch,
    rpmbuild_arch: null,
    repo_arch: null,
    repo_arch_map: dict({}),
    releasever: null,
    cleanup_on_success: true,
    cleanup_on_failure: true,
    rpmbuild_networking: false,
    use_host_resolv: false,
    isolation: 'auto',
    hostname: null,
    forcearch: null,
    short_circuit: null,
    rpmbuild_opts: '',
    chroot_setup_cmd: ['groupinstall', 'buildsys-build'],
    chroot_additional_packages: [],
    additional_packages: null,
    more_buildreqs: dict({}),
    update_before_build: true,
    package_manager: 'dnf',
    ...packageManagerCommands(),
    rpm_command: '/bin/rpm',
    rpmbuild_command: '/usr/bin/rpmbuild',
    dnf_vars: dict({}),
    module_enable: [],
    module_install: [],
    module_setup_commands: [],
    use_bootstrap: false,
    use_bootstrap_image: false,
    bootstrap_image: null,
    bootstrap_chroot_additional_packages: [],
    extra_chroot_dirs: [],
    nspawn_args: ['--capability=cap_ipc_lock'],
    createrepo_on_rpms: false,
    external_buildrequires: false,
    redhat_subscription_required: false,
    ssl_ca_bundle_path: null,
    ssl_extra_certs: null,
    ssl_copied_ca_trust_dirs: [
      ['/etc/pki/ca-trust', '/etc/pki/ca-trust'],
      ['/usr/share/pki/ca-trust-source', '/usr/share/pki/ca-trust-source'],
    ],
    copy_host_users: [],
    exclude_from_homedir_cleanup: ['build/SOURCES', '.bash_history', '.bashrc'],
    package_manager_max_attempts: 1,
    package_manager_attempt_delay: 10,
    dynamic_buildrequires: true,
    dynamic_buildrequires_max_loops: 10,
    bootstrap_module_enable: [],
    bootstrap_module_install: [],
    bootstrap_module_setup_commands: [],
    bootstrap_image_ready: false,
    nosync: false,
    nosync_force: false,
    no_root_shells: false,
    'priorities.conf': '\n[main]\nenabled=0',
    'rhnplugin.conf': '\n[main]\nenabled=0',
    'subscription-manager.conf': '',
    description: '',
    'no-config': dict({}),
    'dnf.conf': '',
    user_agent: 'Mock ({{ root }}; {{ target_arch }})',
    mirrored: false,
    files: dict({}),
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

/** mock's command lines for package managers, by the names that {@link ConfigOptions} keeps. */
function packageManagerCommands(): Record<string, ConfigValue> {
  const common = [
    '--setopt=deltarpm=False',
    '--setopt=allow_vendor_change=yes',
    '--allowerasing',
  ] as const;
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
    dnf4_common_opts: [...common],
    dnf4_disable_plugins: ['local', 'spacewalk', 'versionlock'],
    dnf5_command: '/usr/bin/dnf5',
    dnf5_system_command: '/usr/bin/dnf5',
    dnf5_install_command: 'install dnf5 dnf5-plugins',
    dnf5_common_opts: [...common],
    dnf5_disable_plugins: [],
    microdnf_command: '/usr/bin/microdnf',
    microdnf_install_command: 'dnf-install microdnf dnf dnf-plugins-core',
    microdnf_common_opts: [],
  };
}

/** mock's plugins (mockbuild.config.PLUGIN_LIST); `bootstrap` is only scrubbed. */
const PLUGINS = [
  'tmpfs',
  'root_cache',
  'yum_cache',
  'mount',
  'bind_mount',
  'ccache',
  'selinux',
  'package_state',
  'chroot_scan',
  'lvm_root',
  'overlayfs',
  'compress_logs',
  'sign',
  'pm_request',
  'hw_info',
  'procenv',
  'showrc',
  'rpkg_preprocessor',
  'rpmautospec',
  'buildroot_lock',
  'export_buildroot_image',
  'sbom_generator',
  'scm',
] as const;

const ENABLED = new Set([
  'root_cache',
  'yum_cache',
  'mount',
  'bind_mount',
  'selinux',
  'package_state',
  'hw_info',
]);

function pluginDefaults(): ConfigValue {
  const conf: Record<string, ConfigValue> = {};
  for (const name of PLUGINS) {
    conf[`${name}_enable`] = ENABLED.has(name);
    conf[`${name}_opts`] = dict({});
  }
  conf.bind_mount_opts = dict({ dirs: [], create_dirs: false });
  conf.mount_opts = dict({ dirs: [] });
  conf.ccache_opts = dict({ max_cache_size: '4G' });
  return dict(conf);
}

function dict(entries: Record<string, ConfigValue>): Map<string, ConfigValue> {
  return new Map(Object.entries(entries));
}
