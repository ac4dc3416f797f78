/** Of every option that mock or dnf has: kiln does it, or says with file and line that it does not. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import test, { type ExecutionContext } from 'ava';
import { KilnError } from '../../src/errors.ts';
import { isDoneOfDnf } from '../../src/jobs/mock/config/dnf-options.ts';
import { loadConfig, loadConfigs } from '../../src/jobs/mock/config/load.ts';
import { optionKind } from '../../src/jobs/mock/config/option-table.ts';
import { configMeaning } from '../../src/jobs/mock/config/recipe.ts';
import { asText, isDict } from '../../src/jobs/mock/config/values.ts';
import { PATIENCE } from '../support/busybox-state.ts';

/** What mock's setup_default_config_opts() sets (mockbuild/config.py, 2026), without what configurations add. */
const MOCKS =
  `config_paths version basedir resultdir rootdir cache_topdir clean check post_install chroothome
log_config_file rpmbuild_timeout host_arch chrootuid chrootgid chrootgroup chrootuser build_log_fmt_name
root_log_fmt_name state_log_fmt_name online isolation use_nspawn rpmbuild_networking nspawn_args
use_container_host_hostname use_bootstrap use_bootstrap_image bootstrap_image bootstrap_image_skip_pull
bootstrap_image_ready bootstrap_image_fallback bootstrap_image_keep_getting bootstrap_image_assert_digest
use_buildroot_image buildroot_image buildroot_image_skip_pull buildroot_image_ready buildroot_image_fallback
buildroot_image_keep_getting buildroot_image_assert_digest internal_dev_setup cleanup_on_success cleanup_on_failure
exclude_from_homedir_cleanup createrepo_on_rpms createrepo_command tar_binary tar backup_on_clean backup_base_dir
redhat_subscription_required ssl_ca_bundle_path ssl_copied_ca_trust_dirs ssl_extra_certs plugins plugin_dir
plugin_conf environment scm scm_opts use_host_resolv chroot_setup_cmd repo_arch repo_arch_map target_arch releasever
rpmbuild_arch dnf_vars yum_builddep_opts yum_common_opts update_before_build priorities.conf rhnplugin.conf
subscription-manager.conf more_buildreqs nosync nosync_force files macros hostname module_enable module_install
module_setup_commands forcearch bootstrap_chroot_additional_packages bootstrap_module_enable
bootstrap_module_install bootstrap_module_setup_commands no_root_shells extra_chroot_dirs package_manager
package_manager_max_attempts package_manager_attempt_delay dynamic_buildrequires dynamic_buildrequires_max_loops
external_buildrequires dev_loop_count yum_command yum_system_command yum_install_command yum_builddep_command
yum_avoid_opts dnf4_command dnf4_system_command dnf4_common_opts dnf4_install_command dnf4_disable_plugins
dnf4_avoid_opts dnf5_command dnf5_system_command dnf5_common_opts dnf5_install_command dnf5_disable_plugins
dnf5_avoid_opts microdnf_command microdnf_install_command microdnf_builddep_command microdnf_builddep_opts
microdnf_common_opts microdnf_avoid_opts rpm_command rpmbuild_command user_agent opstimeout stderr_line_prefix
chroot_additional_packages additional_packages no-config seccomp copy_host_users use_host_shadow_utils
qemu_user_static_mapping recursion_limit calculatedeps hermetic_build mock_run_uuid config_path chroot_name
config_file`.split(/\s+/);

/** Options that its site-defaults.cfg and its code know beside those. */
const OTHERS =
  `root description legal_host_arches dnf.conf yum.conf macrofile useradd rpmbuild_opts print_main_output
cache_alterations verbose unique-ext short_circuit enable_disable_repos use_bootstrap_container
dnf_common_opts dnf_command dnf_install_command dnf_disable_plugins dnf_avoid_opts dnf_builddep_opts
system_dnf_command system_dnf4_command system_dnf5_command system_yum_command system_microdnf_command
dnf5_builddep_opts dnf4_builddep_opts dnf4_builddep_command docker_unshare_warning`.split(/\s+/);

const BASE = `config_opts['root'] = 'x'
config_opts['target_arch'] = 'x86_64'
config_opts['releasever'] = '9'
config_opts['chroot_setup_cmd'] = 'install bash'
config_opts['more_buildreqs'] = {}
config_opts['dnf.conf'] = """
[main]
gpgcheck=0
[r]
name=R
baseurl=file:///r/$basearch/$releasever
"""
`;
const LINE = BASE.split('\n').length;

/** Another value than the default, which means something where one of the kind would not. */
const VALUES: Readonly<Record<string, string>> = {
  target_arch: "'i686'",
  repo_arch: "'i686'",
  'dnf.conf': "config_opts['dnf.conf'] + '[s]\\nbaseurl=file:///s\\n'",
  'yum.conf': "config_opts['dnf.conf'] + '[s]\\nbaseurl=file:///s\\n'",
  chroot_setup_cmd: "'install bash make'",
  legal_host_arches: "('s390x',)",
  repo_arch_map: "{'x86_64': 'amd64'}",
  rpmbuild_arch: "'noarch'",
  extra_chroot_dirs: "['/run/lock']",
  module_enable: "['a:1']",
  module_install: "['a:1/p']",
  module_setup_commands: "[('enable', 'a:1')]",
  releasever: "'10'",
  macros: "{'%a': 'b'}",
  dnf_vars: "{'basearch': 'other'}",
  package_manager: "'dnf5'",
  dnf4_common_opts: "['--exclude=foo']",
  dnf_common_opts: "['--exclude=foo']",
  dnf5_common_opts: "['--exclude=foo']; config_opts['package_manager'] = 'dnf5'",
  yum_common_opts: "['--exclude=foo']; config_opts['package_manager'] = 'yum'",
  microdnf_common_opts: "['--exclude=foo']; config_opts['package_manager'] = 'microdnf'",
  basedir: "'/elsewhere'",
  chrootuid: '1234',
  chrootgid: '1234',
};

/** As dnf.conf has it, for what mock has a default of. */
function another(name: string, text: string): string {
  if (VALUES[name] !== undefined) return VALUES[name];
  if (text === 'True') return 'False';
  if (text === 'False') return 'True';
  if (/^-?\d+$/.test(text)) return String(Number(text) + 7);
  if (text.startsWith('[') || text.startsWith('(')) return "['other']";
  return text.startsWith('{') ? "{'other': 'other'}" : "'other'";
}

/** What each of some texts comes to; the texts follow BASE in configurations of their own. */
async function meanings(t: ExecutionContext, texts: readonly string[], base = BASE) {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-mock-options-'));
  t.teardown(() => rm(directory, { recursive: true }));
  const files = texts.map((_, at) => join(directory, `${String(at).padStart(4, '0')}.cfg`));
  for (const [at, text] of texts.entries()) await writeFile(files[at]!, `${base}${text}\n`);
  const found: { meaning: string; said: string }[] = [];
  for await (const config of loadConfigs(files, {
    paths: { root: '/s' },
    directory,
    arch: 'x86_64',
  })) {
    const where = files[found.length]!;
    try {
      if (config instanceof KilnError) throw config;
      const { warnings, ...meaning } = configMeaning(
        { ...config, name: 'x' },
        { host: 'x86_64', switches: [] },
      );
      const said = warnings.map(({ message, place }) => `${place?.line}: ${message}`).join('\n');
      const plain = (_: string, value: unknown) => (value instanceof Map ? [...value] : value);
      found.push({ meaning: JSON.stringify(meaning, plain), said });
    } catch (error) {
      const said = String((error as Error).message).replaceAll(`${where}:`, '');
      found.push({ meaning: 'error', said });
    }
  }
  return found;
}

test('every option of mock is honoured, named with file and line, or mock’s own affair', async (t) => {
  t.timeout(120_000 * PATIENCE);
  const { options } = await loadConfig(undefined, { paths: { root: '/s' }, arch: 'x86_64' });
  t.deepEqual(
    options.names().filter((name) => !MOCKS.includes(name)),
    [],
  );
  t.deepEqual(
    MOCKS.filter((name) => !options.has(name)),
    [],
  );
  const names = [...MOCKS, ...OTHERS].filter(
    (name) => !['plugin_conf', 'config_paths'].includes(name),
  );
  const texts = names.map((name) => {
    const text = options.has(name) ? options.literal(name, { expanded: false }) : 'None';
    return `config_opts['${name}'] = ${another(name, text)}`;
  });
  const [before, ...after] = await meanings(t, ['', ...texts]);
  t.is(before!.said, '');
  const kinds: Record<string, string[]> = { done: [], named: [], own: [], neither: [] };
  for (const [at, { meaning, said }] of after.entries()) {
    const name = names[at]!;
    const isNamed = new RegExp(`^${LINE}: `, 'm').test(said);
    const does = meaning !== before!.meaning && !(meaning === 'error' && said === '');
    const own =
      optionKind(name) === 'own' ||
      /^(?:system_\w+_command|dnf_(?:command|install_command|disable_plugins))$/.test(name);
    const kind = isNamed ? 'named' : does ? 'done' : own ? 'own' : 'neither';
    kinds[kind]?.push(name);
    // What the table says of an option is true.
    if (optionKind(name) === 'done') t.true(does || isNamed, `${texts[at]}: nothing came of it`);
    if (optionKind(name) === 'left-out') t.true(isNamed, `${texts[at]}: ${said}`);
  }
  t.deepEqual(kinds.neither, []);
  for (const name of ['rpmbuild_command', 'copy_host_users', 'dynamic_buildrequires', 'useradd']) {
    t.true(kinds.named!.includes(name), name);
  }
  for (const name of [
    'extra_chroot_dirs',
    'chrootgid',
    'chrootgroup',
    'dnf4_common_opts',
    'online',
  ]) {
    t.true(kinds.done!.includes(name), name);
  }
  t.log(
    Object.entries(kinds)
      .map(([kind, all]) => `${all.length} ${kind}`)
      .join(', '),
  );
});

test('every plugin and its options are honoured, named, or mock’s own affair', async (t) => {
  t.timeout(120_000 * PATIENCE);
  const { options } = await loadConfig(undefined, { paths: { root: '/s' }, arch: 'x86_64' });
  const conf = options.value('plugin_conf');
  if (!isDict(conf)) return t.fail();
  // Caches, and how mock keeps a root; what they leave behind kiln writes always.
  const own =
    /^(?:tmpfs|root_cache|yum_cache|selinux|lvm_root|overlayfs|buildroot_lock|sbom_generator)_|^bind_mount_opts\.create_dirs|^(?:bind_mount|mount)_enable/;
  const asked: [string, string][] = [];
  for (const [key, value] of conf) {
    const plugin = key.replace(/_(?:enable|opts)$/, '');
    const set = (path: string, text: string) => `config_opts['plugin_conf']${path} = ${text}`;
    if (!isDict(value)) {
      asked.push([key, set(`['${key}']`, value === true ? 'False' : 'True')]);
      continue;
    }
    for (const [option, inner] of value) {
      const text = VALUES_OF_PLUGINS[`${plugin}.${option}`] ?? another(option, asText(inner));
      const on = set(`['${plugin}_enable']`, 'True');
      asked.push([`${key}.${option}`, `${on}; ${set(`['${key}']['${option}']`, text)}`]);
    }
  }
  const plugins = [...new Set(asked.map(([key]) => key.replace(/_(?:enable|opts).*/, '')))];
  const enabled = plugins.map((plugin) => `config_opts['plugin_conf']['${plugin}_enable'] = True`);
  const [before, ...all] = await meanings(t, ['', ...enabled, ...asked.map(([, text]) => text)]);
  const [whenOn, after] = [all.slice(0, plugins.length), all.slice(plugins.length)];
  for (const [at, [key, text]] of asked.entries()) {
    const plugin = plugins.indexOf(key.replace(/_(?:enable|opts).*/, ''));
    const base = key.includes('.') ? whenOn[plugin]! : before!;
    const { meaning, said } = after[at]!;
    const isNamed = new RegExp(`^${LINE}: .*plugin`, 'm').test(said);
    t.true(isNamed || meaning !== base.meaning || own.test(key), `${text}: ${said}`);
  }
});

const VALUES_OF_PLUGINS: Readonly<Record<string, string>> = {
  'bind_mount.dirs': "[('/srv', '/srv')]",
  'mount.dirs': "[('/dev/sdb', '/mnt')]",
  'ccache.max_cache_size': "'1G'",
  'ccache.compress': 'True',
  'ccache.dir': "'/elsewhere'",
};

/** The names that dnf.conf(5) has. */
async function dnfOptions(): Promise<string[]> {
  const page = gunzipSync(await readFile('/usr/share/man/man5/dnf4.conf.5.gz')).toString();
  return [...page.matchAll(/^\.B \\fB(\w+)\\fP$/gm)].map(([, name = '']) => name);
}

test('every option of dnf.conf(5) is honoured, named with file and line, or changes no package', async (t) => {
  t.timeout(120_000 * PATIENCE);
  const names = await dnfOptions();
  t.true(names.length > 90, String(names.length));
  const yums = [
    'exclude',
    'failovermethod',
    'mdpolicy',
    'type',
    'metadata_timer_sync',
    'exactarch',
    'reposdir',
  ];
  const values = (name: string) => DNF_VALUES[name] ?? ['0', '1', 'other'];
  const asked = [...new Set([...names, ...yums, 'misspelt'])].flatMap((name) =>
    values(name).flatMap((value) => ['main', 'r'].map((section) => ({ name, value, section }))),
  );
  const texts = asked.map(({ name, value, section }) => {
    const line = `${name}=${value}\\n`;
    const conf = "config_opts['dnf.conf']";
    return section === 'r'
      ? `${conf} += '${line}'`
      : `${conf} = ${conf}.replace('[r]', '${line}[r]')`;
  });
  const [before, ...after] = await meanings(t, ['', ...texts]);
  const came = new Map<string, Set<string>>();
  for (const [at, { meaning, said }] of after.entries()) {
    const { name, value, section } = asked[at]!;
    const isNamed = said.includes(`${LINE}: [${section}] ${name}=${value} is left out: `);
    const isError = meaning === 'error' && said !== '';
    const does = meaning !== before!.meaning;
    const kind = isNamed ? 'named' : isError || does ? 'done' : 'nothing';
    came.set(name, (came.get(name) ?? new Set()).add(kind));
  }
  for (const [name, kinds] of came) {
    if (isDoneOfDnf(name) && name !== 'name') t.true(kinds.has('done'), name);
  }
  const silent = [...came].filter(([, kinds]) => kinds.size === 1 && kinds.has('nothing'));
  t.deepEqual(silent.map(([name]) => name).sort(), CHANGES_NO_PACKAGE);
  for (const name of [
    'best',
    'strict',
    'tsflags',
    'multilib_policy',
    'installonlypkgs',
    'misspelt',
  ]) {
    t.true(came.get(name)?.has('named'), name);
  }
  for (const name of ['includepkgs', 'excludepkgs', 'install_weak_deps'])
    t.true(came.get(name)?.has('done'), name);
});

test('options that a configuration gives to dnf mean what they mean to dnf, or are named where they are', async (t) => {
  t.timeout(60_000 * PATIENCE);
  const given = (...options: readonly string[]) =>
    `config_opts['dnf4_common_opts'] = ${JSON.stringify(options)}`;
  const lists = `config_opts['dnf.conf'] = config_opts['dnf.conf'].replace('[r]', 'excludepkgs=a b\\n[r]') + 'includepkgs=c\\n'\n`;
  const [left, added, emptied, globbed] = await meanings(t, [
    given('--setopt=tsflags=nodocs', '--nobest', '--setopt=r.skip_if_unavailable=1'),
    `${lists}${given('--setopt=excludepkgs=d', '--exclude', 'e', '--setopt=*.includepkgs=f')}`,
    `${lists}${given('--setopt=excludepkgs=', '--setopt=r.includepkgs=', '--setopt=nosuch.excludepkgs=x')}`,
    given('--setopt=?.excludepkgs=g', '--setopt=*.priority=7'),
  ]);
  for (const option of ['[main] tsflags=nodocs', '[main] best=0', '[r] skip_if_unavailable=1']) {
    t.true(left!.said.includes(`${LINE}: ${option} is left out: `), left!.said);
  }
  const repository = (of: { meaning: string } | undefined) =>
    JSON.parse(of!.meaning).recipe.repositories[0] as Record<string, unknown>;
  // dnf.conf._configure_from_options() of dnf 4.23: lists grow, and ids may be globs.
  t.deepEqual(repository(added).excludepkgs, ['a', 'b', 'd', 'e']);
  t.deepEqual(repository(added).includepkgs, ['c', 'f']);
  t.is(repository(emptied).excludepkgs, undefined);
  t.is(repository(emptied).includepkgs, undefined);
  t.deepEqual(repository(globbed).excludepkgs, ['g']);
  t.is(repository(globbed).priority, 7);
});

const DNF_VALUES: Readonly<Record<string, readonly string[]>> = {
  baseurl: ['file:///other'],
  metalink: ['https://x/metalink'],
  mirrorlist: ['https://x/list'],
  gpgkey: ['file:///key'],
  priority: ['7'],
  cost: ['7'],
  metadata_expire: ['7'],
  includepkgs: ['foo'],
  excludepkgs: ['foo'],
  exclude: ['foo'],
  enabled: ['0'],
  module_platform_id: ['platform:el9'],
};

/** Downloading, logging, questions to a person, and what is settled before a package is chosen. */
const CHANGES_NO_PACKAGE =
  `assumeyes autocheck_running_kernel bandwidth cachedir check_config_file_age clean_requirements_on_remove color
color_list_available_downgrade color_list_available_install color_list_available_reinstall
color_list_available_upgrade color_list_installed_extra color_list_installed_newer color_list_installed_older
color_list_installed_reinstall color_search_match color_update_installed color_update_local color_update_remote
config_file_path countme debug_solver debuglevel defaultyes deltarpm deltarpm_percentage diskspacecheck errorlevel
exactarch exclude_from_weak_autodetect exit_on_lock failovermethod fastestmirror installonly_limit installroot
ip_resolve keepcache log_compress log_rotate log_size logdir logfilelevel max_parallel_downloads mdpolicy
metadata_timer_sync minrate optional_metadata_types persistdir persistence pluginconfpath pluginpath plugins
protect_running_kernel retries rpmverbosity throttle timeout upgrade_group_objects_upgrade user_agent zchunk`.split(
    /\s+/,
  );
