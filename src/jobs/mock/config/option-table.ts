/** What kiln makes of each option that mock has, or had. A test tries them all. */

/** Their meaning is in the other modules of this folder. */
const DONE = words(`
  root description target_arch rpmbuild_arch repo_arch repo_arch_map legal_host_arches forcearch releasever dnf_vars
  dnf.conf chroot_setup_cmd chroot_additional_packages extra_chroot_dirs chrootuser chrootuid chrootgid chrootgroup chroothome
  environment files macros hostname resultdir basedir rpmbuild_networking rpmbuild_timeout rpmbuild_opts clean check
  cleanup_on_success cleanup_on_failure post_install more_buildreqs createrepo_on_rpms plugin_conf online
  module_enable module_install module_setup_commands`);

/** They change nothing about a build here, or are changed by mock itself. */
const OWN = new Set([
  // Kiln makes a root of packages at once, without a root to start from.
  ...words(`use_bootstrap use_bootstrap_container use_bootstrap_image bootstrap_image bootstrap_image_skip_pull
      bootstrap_image_ready bootstrap_image_fallback bootstrap_image_keep_getting bootstrap_image_assert_digest
      bootstrap_chroot_additional_packages bootstrap_module_enable bootstrap_module_install
      bootstrap_module_setup_commands`),
  // Kiln solves and unpacks: no package manager runs.
  ...words(`package_manager package_manager_max_attempts package_manager_attempt_delay user_agent
      yum_command yum_system_command yum_install_command yum_builddep_command yum_disable_plugins
      dnf4_command dnf4_system_command dnf4_install_command dnf4_disable_plugins dnf4_builddep_command
      dnf5_command dnf5_system_command dnf5_install_command dnf5_disable_plugins dnf5_builddep_command
      microdnf_command microdnf_system_command microdnf_install_command microdnf_builddep_command
      microdnf_disable_plugins update_before_build dnf_warning`),
  // A sandbox is not what mock isolates with.
  ...words(`isolation use_nspawn seccomp internal_dev_setup docker_unshare_warning use_host_resolv
      use_container_host_hostname use_host_shadow_utils nosync nosync_force`),
  // It is about logs and files of mock’s own.
  ...words(`log_config_file build_log_fmt_name root_log_fmt_name state_log_fmt_name print_main_output verbose
      stderr_line_prefix cache_topdir cache_alterations tar tar_binary backup_base_dir recursion_limit version`),
  // Mock sets it itself, or heeds it only with another option, which is named.
  ...words(`config_path config_paths config_file chroot_name host_arch additional_packages calculatedeps
      hermetic_build offline_local_repository mock_run_uuid unique-ext short_circuit enable_disable_repos no-config
      qemu_user_static_mapping scm_opts jinja_max_recursion dist rhel_product mirrored releasever_major
      buildroot_image_skip_pull buildroot_image_ready buildroot_image_fallback buildroot_image_keep_getting
      buildroot_image_assert_digest`),
]);

const OWN_ROOT =
  'a root is made of packages; `kiln image import` takes OCI images, and `kiln build -r NAME` builds in one';

const OWN_SOLVER =
  'kiln asks its own solver, and takes --setopt, --exclude, --enablerepo and --disablerepo of the common options';

/** They change a build, and kiln does not do it: what to do instead. Named where they differ from mock's default. */
const LEFT_OUT: Readonly<Record<string, string>> = {
  macrofile: "put the macros into config_opts['macros'], or give --macro-file",
  scm: 'get the sources first, then give --spec and --sources',
  external_buildrequires:
    'what pip or cargo bring is signed by nobody: require RPM packages, or have it in the sources',
  redhat_subscription_required:
    'kiln has no subscription-manager: give sslclientcert and sslclientkey in dnf.conf',
  ssl_ca_bundle_path:
    "the image has the certificates of its packages: add others with config_opts['files']",
  ssl_copied_ca_trust_dirs:
    "the image has the certificates of its packages: add others with config_opts['files']",
  ssl_extra_certs: "add them with config_opts['files']",
  use_buildroot_image: OWN_ROOT,
  buildroot_image: OWN_ROOT,
  no_root_shells: '--shell and --chroot are for the caller of kiln-mock',
  rpmbuild_command:
    'the root’s own rpmbuild is run: a package that brings another one can replace it',
  rpm_command: 'the root’s own rpm is run',
  createrepo_command: 'kiln writes the metadata of a repository itself',
  dynamic_buildrequires: 'what %generate_buildrequires asks for is installed, as rpmbuild wants it',
  dynamic_buildrequires_max_loops: '%generate_buildrequires may ask in 20 rounds',
  copy_host_users: 'nothing of the host’s accounts comes into a root: packages bring theirs',
  useradd:
    'kiln writes the account itself: chrootuser, chrootuid, chrootgroup, chrootgid and chroothome say which',
  exclude_from_homedir_cleanup: 'a build starts with an empty home; --no-clean keeps what is there',
  backup_on_clean: 'nothing is kept of what is cleaned: copy it with --copyout before',
  rootdir: 'roots lie below KILN_STATE; --copyin, --copyout and --chroot reach what is in them',
  opstimeout: 'rpmbuild_timeout and --timeout of kiln build limit a build',
  nspawn_args:
    'a sandbox is started by libvirt; --enable-network and bind_mount are what it can be given',
  dev_loop_count: 'a sandbox has no devices of the host, loop devices neither',
  plugins: 'kiln has what mock’s own plugins do, and runs none',
  plugin_dir: 'kiln has what mock’s own plugins do, and runs none',
  'priorities.conf': 'give repositories `priority` in dnf.conf',
  'rhnplugin.conf': 'kiln runs no plugin of yum: give repositories in dnf.conf',
  'subscription-manager.conf': 'kiln runs no plugin of dnf: give repositories in dnf.conf',
  yum_builddep_opts: OWN_SOLVER,
  dnf4_builddep_opts: OWN_SOLVER,
  dnf5_builddep_opts: OWN_SOLVER,
  microdnf_builddep_opts: OWN_SOLVER,
  yum_avoid_opts: OWN_SOLVER,
  dnf4_avoid_opts: OWN_SOLVER,
  dnf5_avoid_opts: OWN_SOLVER,
  microdnf_avoid_opts: OWN_SOLVER,
};

/** Options of the package manager, of which some are done: package-manager.ts. */
const COMMON = words('yum_common_opts dnf4_common_opts dnf5_common_opts microdnf_common_opts');

/** Undefined for what is no option of mock's. */
export function optionKind(name: string): 'done' | 'own' | 'left-out' | undefined {
  if (DONE.has(name) || COMMON.has(name)) return 'done';
  if (OWN.has(name)) return 'own';
  return Object.hasOwn(LEFT_OUT, name) ? 'left-out' : undefined;
}

export function insteadOf(name: string): string {
  return LEFT_OUT[name] ?? 'it is not an option of mock’s';
}

function words(text: string): ReadonlySet<string> {
  return new Set(text.trim().split(/\s+/));
}
