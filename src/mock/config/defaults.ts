import { userInfo } from 'node:os';
import { join } from 'node:path';
import type { StatePaths } from '../../state/paths.ts';
import { ConfigOptions, type ConfigValue } from './values.ts';

/** Where kiln-mock keeps what mock keeps in /var/lib/mock: result directories that nobody named. */
export function mockDirectory(paths: Pick<StatePaths, 'root'>): string {
  return join(paths.root, 'mock');
}

/**
 * mock's own defaults (mock(1), site-defaults.cfg), as far as configurations read or change them.
 * Options that say how mock itself works, such as dnf's command line, are not among them.
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
    // mock's is the caller's, who is root here: its build user must not be.
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
    dnf_common_opts: [],
    yum_common_opts: [],
    dnf_vars: dict({}),
    module_enable: [],
    module_install: [],
    module_setup_commands: [],
    use_bootstrap: false,
    use_bootstrap_image: false,
    bootstrap_image: null,
    bootstrap_chroot_additional_packages: [],
    extra_chroot_dirs: [],
    nspawn_args: [],
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
