/** What kiln makes of each option of dnf.conf(5) and yum.conf(5). A test tries them all. */

/** Their meaning is in repositories.ts, modules.ts and recipe.ts. */
const DONE = words(`
  name enabled baseurl metalink mirrorlist gpgcheck repo_gpgcheck gpgkey priority cost exclude excludepkgs includepkgs
  metadata_expire install_weak_deps module_hotfixes module_platform_id module_obsoletes username password
  sslclientcert sslclientkey sslcacert sslverify`);

const WITHOUT_EFFECT = words(`
  cachedir system_cachedir keepcache persistdir installroot config_file_path check_config_file_age exit_on_lock
  debuglevel errorlevel logfile logdir logfilelevel log_size log_rotate log_compress syslog_ident syslog_device
  rpmverbosity debug_solver color color_list_available_downgrade color_list_available_install
  color_list_available_reinstall color_list_available_upgrade color_list_installed_extra
  color_list_installed_newer color_list_installed_older color_list_installed_reinstall color_search_match
  color_update_installed color_update_local color_update_remote history_record history_list_view
  assumeyes defaultyes
  retries timeout minrate throttle bandwidth ip_resolve max_parallel_downloads fastestmirror failovermethod
  mirrorlist_expire http_caching mdpolicy metadata_timer_sync optional_metadata_types deltarpm deltarpm_percentage
  zchunk user_agent countme
  plugins pluginpath pluginconfpath bugtracker_url distroverpkg exactarch diskspacecheck persistence
  autocheck_running_kernel protect_running_kernel upgrade_group_objects_upgrade installonly_limit
  exclude_from_weak_autodetect clean_requirements_on_remove`);

type Judge = (value: string) => boolean;
const isOn: Judge = (value) => booleanOption(value) === true;
const isOff: Judge = (value) => booleanOption(value) === false;
const isOneOf =
  (...values: readonly string[]): Judge =>
  (value) =>
    values.includes(value);

/** Options that kiln always has one value of: which, and what happens instead of another. */
const FIXED: Readonly<Record<string, readonly [isHere: Judge, instead: string]>> = {
  best: [isOn, 'the newest of what is asked for is installed, or nothing'],
  strict: [isOn, 'what cannot be installed is an error'],
  skip_if_unavailable: [isOff, 'what is configured must be there'],
  obsoletes: [isOn, 'what obsoletes a package replaces it'],
  enablegroups: [isOn, 'groups are installed where they are asked for'],
  allow_vendor_change: [isOn, 'a package may come from another vendor than before'],
  multilib_policy: [isOneOf('best'), 'one architecture of a package is installed'],
  group_package_types: [
    (value) => [...new Set(listOption(value))].sort().join() === 'conditional,default,mandatory',
    'mandatory, default and met conditional packages of a group are installed',
  ],
  tsflags: [
    () => false,
    'all files are installed, and all scriptlets run; remove files in the build',
  ],
  ignorearch: [isOff, 'packages of the root’s architecture are installed'],
  cacheonly: [isOff, 'give --offline'],
  localpkg_gpgcheck: [isOff, 'a file that is named is installed without a check'],
  sslverifystatus: [isOff, 'the server’s certificate is checked, its revocation is not asked for'],
  gpgkey_dns_verification: [isOff, 'keys are files of this machine'],
  assumeno: [isOff, 'nothing is asked'],
  module_stream_switch: [isOff, 'a root is made with the streams that are enabled'],
  reposdir: [isOneOf('/dev/null'), 'repositories are those of this text'],
  type: [
    isOneOf('rpm-md', 'rpm', 'repo', 'yum', 'NONE'),
    'metadata are repodata/ as of createrepo_c',
  ],
};

/** Undefined where an option of dnf.conf has its effect, or none; otherwise what happens instead. */
export function leftOutOfDnf(name: string, value: string): string | undefined {
  if (DONE.has(name) || WITHOUT_EFFECT.has(name) || value === '') return undefined;
  const [isHere, instead] = (Object.hasOwn(FIXED, name) && FIXED[name]) || [
    () => false,
    'kiln does not know this option of dnf',
  ];
  return isHere(value) ? undefined : instead;
}

export function isDoneOfDnf(name: string): boolean {
  return DONE.has(name);
}

export function listOption(value: string | undefined): string[] {
  return (value ?? '').split(/[\s,]+/).filter(Boolean);
}

export function booleanOption(value: string | undefined): boolean | undefined {
  if (value === undefined) return undefined;
  if (/^(?:1|true|yes|on|enabled)$/i.test(value)) return true;
  return /^(?:0|false|no|off|disabled)$/i.test(value) ? false : undefined;
}

function words(text: string): ReadonlySet<string> {
  return new Set(text.trim().split(/\s+/));
}
