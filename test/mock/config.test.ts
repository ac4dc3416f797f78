import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { KilnError } from '../../src/errors.ts';
import { writeRecipe } from '../../src/jobs/mock/chroot.ts';
import { loadConfig } from '../../src/jobs/mock/config/load.ts';
import { configMeaning } from '../../src/jobs/mock/config/recipe.ts';
import { loadImageRecipe } from '../../src/recipe/load-image-recipe.ts';

const paths = { root: '/var/lib/kiln-test' };

/** Writes files into a folder that is gone after the test, and returns its path. */
async function folder(t: ExecutionContext, files: Record<string, string>): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-mock-config-'));
  t.teardown(() => rm(directory, { recursive: true }));
  for (const [name, text] of Object.entries(files)) {
    await mkdir(dirname(join(directory, name)), { recursive: true });
    await writeFile(join(directory, name), text);
  }
  return directory;
}

async function load(directory: string) {
  return await loadConfig(join(directory, 'test.cfg'), {
    paths,
    directory,
    arch: 'x86_64',
    home: join(directory, 'home'),
  });
}

async function meaning(directory: string, switches: { pattern: string; enabled: boolean }[] = []) {
  return configMeaning(await load(directory), { host: 'x86_64', switches });
}

const TEMPLATE = `
config_opts['root'] = 'demo-{{ releasever }}-{{ target_arch }}'
config_opts['description'] = 'Demo {{ releasever }}'
config_opts['mirrored'] = config_opts['target_arch'] != 'i686'
config_opts['chroot_setup_cmd'] = 'install @{% if mirrored %}buildsys-{% endif %}build tar'
config_opts['suffix'] = '{% if releasever|int > 40 %}new{% else %}old{% endif %}'
config_opts['dnf.conf'] = """
[main]
gpgcheck=0
install_weak_deps=0
user_agent={{ user_agent }}
{%- macro keys() -%}
file:///keys/{{ releasever }}
{%- for version in [releasever|int - 1, releasever|int - 2]
%} file:///keys/{{ version }}
{%- endfor %}
{%- endmacro %}

[local]
baseurl=http://local/$basearch/
enabled={{ not mirrored }}

{% if mirrored %}
[demo]
name=Demo $releasever
metalink=https://mirrors/?repo=demo-$releasever&arch=$basearch
gpgkey={{ keys() }}
gpgcheck=1
excludepkgs=*.i?86 foo,
  bar
priority=7
metadata_expire=0
{% endif %}

[{{ suffix }}]
baseurl=https://one/$basearch
    https://two/$basearch
cost=5
fancy=1
skip_if_unavailable=1
"""
`;

const CONFIG = `
config_opts['releasever'] = '42'
config_opts['target_arch'] = 'x86_64'
config_opts['legal_host_arches'] = ('x86_64',)
include('templates/demo.tpl')
config_opts['chroot_additional_packages'] = 'gdb strace'
config_opts['macros']['%vendor'] = 'Me & Co.'
config_opts['macros']['%_topdir'] = '/builddir/build'
config_opts['environment']['LANG'] = 'de_DE.UTF-8'
config_opts['files']['etc/motd'] = 'hi'
config_opts['rpmbuild_networking'] = True
config_opts['rpmbuild_timeout'] = 86400
config_opts['plugin_conf']['ccache_enable'] = True
config_opts['plugin_conf']['ccache_opts']['max_cache_size'] = '2G'
config_opts['plugin_conf']['sign_enable'] = True; config_opts['plugin_conf']['sign_opts'] = {'cmd': 'sign-server', 'opts': '%(rpms)s'}
config_opts['plugin_conf']['bind_mount_opts']['dirs'].append(('/srv', '/srv'))
config_opts['module_enable'] = ['ruby:3']
config_opts['misspelt_optoin'] = 1
import os
`;

test('a configuration of mock becomes an image recipe that kiln accepts', async (t) => {
  const directory = await folder(t, {
    'test.cfg': CONFIG,
    'templates/demo.tpl': TEMPLATE,
    'site-defaults.cfg': "config_opts['rpmbuild_timeout'] = 1\nconfig_opts['hostname'] = 'site'\n",
    'home/.config/mock.cfg': "config_opts['macros']['%packager'] = 'you'\n",
  });
  t.is((await load(directory)).options.value('description'), 'Demo 42');
  const { recipe, warnings, ...rest } = await meaning(directory);
  t.like(rest, {
    root: 'demo-42-x86_64',
    user: 'mockbuild',
    resultDirectory: '/var/lib/kiln-test/mock/demo-42-x86_64/result',
    network: true,
    hostname: 'site',
    rpmbuildTimeout: 86400,
    ccache: '2G',
    clean: true,
  });
  const path = await writeRecipe(directory, rest.root, recipe);
  t.is(await writeRecipe(directory, rest.root, recipe), path);
  const loaded = await loadImageRecipe(path, {
    variables: { KILN_STATE: '/x', KILN_FIXTURES: '/x' },
    arch: 'aarch64',
    findByName: () => undefined,
    isTrusted: () => true,
  });
  t.like(loaded, {
    name: 'demo-42-x86_64',
    arch: 'x86_64',
    user: 'mockbuild',
    recommends: false,
    packages: ['tar', 'gdb', 'strace'],
    groups: ['buildsys-build'],
  });
  t.is(loaded.environment.LANG, 'de_DE.UTF-8');
  t.deepEqual(
    loaded.files.map(({ path: name, content }) => [name, content]),
    [
      ['/etc/motd', 'hi'],
      ['/etc/rpm/macros.mock', '%vendor Me & Co.\n%packager you\n'],
    ],
  );
  const [demo, other] = loaded.repositories;
  t.is(loaded.repositories.length, 2);
  t.like(demo, {
    id: 'demo',
    name: 'Demo 42',
    source: { kind: 'metalink', url: 'https://mirrors/?repo=demo-42&arch=x86_64' },
    gpgcheck: true,
    gpgkey: ['/keys/42', '/keys/41', '/keys/40'],
    excludepkgs: ['*.i?86', 'foo', 'bar'],
    priority: 7,
    metadataExpire: 0,
  });
  t.like(other, {
    id: 'new',
    source: { kind: 'baseurl', urls: ['https://one/x86_64', 'https://two/x86_64'] },
    gpgcheck: false,
    cost: 5,
  });
  const said = warnings.map(({ message, place }) => `${place?.line}: ${message}`);
  for (const expected of [
    /^18: misspelt_optoin is left out/,
    /the plugin sign is left out/,
    /the plugin bind_mount: .* is read-only in the root/,
    /\[new\] fancy=1 is left out/,
    /\[new\] skip_if_unavailable=1 is left out/,
  ]) {
    t.true(
      said.some((line) => expected.test(line)),
      `${expected} in\n${said.join('\n')}`,
    );
  }
  t.is(said.length, 5, said.join('\n'));
  t.deepEqual(loaded.modules?.enable, ['ruby:3']);
});

test('settings that kiln cannot honour are named, with what to do instead', async (t) => {
  const names = [
    ...['macrofile', 'scm', 'external_buildrequires', 'redhat_subscription_required'],
    ...['ssl_ca_bundle_path', 'ssl_extra_certs', 'use_buildroot_image', 'buildroot_image'],
    'no_root_shells',
  ];
  const plugins = [
    ...['compress_logs', 'rpmautospec', 'rpkg_preprocessor', 'pm_request'],
    ...['export_buildroot_image', 'procenv', 'showrc', 'scm'],
  ];
  const directory = await folder(t, {
    'test.cfg': [
      `${MINIMAL}${REPOSITORY}`,
      ...names.map((name) => `config_opts['${name}'] = True`),
      ...plugins.map((name) => `config_opts['plugin_conf']['${name}_enable'] = True`),
      "config_opts['plugin_conf']['mount_opts'] = {'dirs': [('/dev/sdb', '/mnt')]}",
    ].join('\n'),
  });
  const said = (await meaning(directory)).warnings.map(({ message }) => message);
  for (const name of [...names, ...[...plugins, 'mount'].map((plugin) => `the plugin ${plugin}`)]) {
    const line = said.find((message) => message.startsWith(`${name} is left out: `));
    t.regex(line ?? '', /: \S+(?: \S+){3}/, `${name} in\n${said.join('\n')}`);
    t.notRegex(line ?? '', /nothing like it/);
  }
});

test('modules and logins of dnf.conf reach the recipe', async (t) => {
  const plain = (text: string) => `${MINIMAL}${text}`;
  const conf = (lines: string) => `config_opts['dnf.conf'] = '''${lines}'''\n`;
  const directory = await folder(t, { 'test.cfg': '' });
  const meant = async (text: string) => {
    await writeFile(join(directory, 'test.cfg'), plain(text));
    const { recipe, warnings } = await meaning(directory);
    t.deepEqual(warnings, []);
    return recipe;
  };
  const main = `
[main]
module_platform_id=platform:el8
[r]
baseurl=https://one/$basearch
module_hotfixes=1
username=joe
password=$ecret
sslclientcert=/etc/pki/$basearch.pem
sslverify=0
`;
  const none = { enable: [], disable: [], install: [], platform: 'el8' };
  const first = await meant(conf(main));
  t.deepEqual(first.modules, none);
  t.like(first.repositories?.[0], {
    module_hotfixes: true,
    username: 'joe',
    password: '$ecret',
    sslclientcert: '/etc/pki/x86_64.pem',
    sslverify: false,
  });
  const plainly = `config_opts['module_enable'] = ['ruby:3', 'perl']
config_opts['module_install'] = ['nodejs:18/common']
`;
  t.deepEqual((await meant(conf(main) + plainly)).modules, {
    ...none,
    enable: ['ruby:3', 'perl'],
    install: ['nodejs:18/common'],
  });
  // As in mock, these stand in for the others, and the last one about a module counts.
  const commands = `${plainly}config_opts['module_setup_commands'] = [
    ('disable', 'postgresql, mariadb'), ('enable', 'postgresql:12'), ('enable', 'php'), ('reset', 'php')]
`;
  t.deepEqual((await meant(conf(main) + commands)).modules, {
    ...none,
    enable: ['postgresql:12'],
    disable: ['mariadb'],
  });
  // What is enabled stays so when its profile is installed, and nothing stays of what a glob disables.
  const profile = `config_opts['module_setup_commands'] = [('enable', 'ruby:3'), ('disable', '*'),
    ('enable', 'nodejs:18'), ('install', 'nodejs/development')]
`;
  t.deepEqual((await meant(conf(main) + profile)).modules, {
    ...none,
    enable: ['nodejs:18'],
    disable: ['*'],
    install: ['nodejs/development'],
  });
  await writeFile(
    join(directory, 'test.cfg'),
    plain(`${conf(main)}config_opts['module_setup_commands'] = [('switch-to', 'a:1')]\n`),
  );
  await t.throwsAsync(meaning(directory), {
    message: /module_setup_commands: switch-to is not understood/,
  });
});

test('repositories are switched on and off by name or glob, with a warning for an unknown name', async (t) => {
  const directory = await folder(t, { 'test.cfg': CONFIG, 'templates/demo.tpl': TEMPLATE });
  const ids = async (...switches: { pattern: string; enabled: boolean }[]) =>
    (await meaning(directory, switches)).recipe.repositories?.map(({ id }) => id);
  t.deepEqual(await ids({ pattern: 'local', enabled: true }), ['local', 'demo', 'new']);
  t.deepEqual(await ids({ pattern: '*', enabled: false }, { pattern: 'n?w', enabled: true }), [
    'new',
  ]);
  const { warnings } = await meaning(directory, [{ pattern: 'nobody', enabled: true }]);
  t.true(
    warnings.some(({ message }) =>
      /^no repository is called nobody \(--enablerepo\)/.test(message),
    ),
  );
  await t.throwsAsync(ids({ pattern: '*', enabled: false }), {
    message: /no repository that is enabled/,
  });
});

const MINIMAL =
  "config_opts['root'] = 'x'; config_opts['target_arch'] = 'x86_64'\nconfig_opts['chroot_setup_cmd'] = 'install a'\n";
const REPOSITORY = "config_opts['dnf.conf'] = '[r]\\nbaseurl=file:///r\\n'\n";

const WRONG: readonly (readonly [string, string, RegExp])[] = [
  ['no root', "config_opts['x'] = 1\n", /does not set config_opts\['root'\]/],
  ['no repository', MINIMAL, /no repository that is enabled/],
  [
    'another processor',
    `${MINIMAL}${REPOSITORY}config_opts['target_arch'] = 's390x'\n`,
    /cannot build for s390x on x86_64/,
  ],
  [
    'another processor than the forced one',
    `${MINIMAL}${REPOSITORY}config_opts['forcearch'] = 's390x'\n`,
    /forcearch is s390x, and target_arch is x86_64/,
  ],
  [
    'hosts it is not for',
    `${MINIMAL}${REPOSITORY}config_opts['legal_host_arches'] = ['ppc64le']\n`,
    /legal_host_arches are ppc64le/,
  ],
  [
    'a path for a name',
    `${REPOSITORY}config_opts['root'] = '../../etc'\n`,
    /cannot be the name of a root/,
  ],
  [
    'another set-up',
    `${MINIMAL}${REPOSITORY}config_opts['chroot_setup_cmd'] = 'shell rm -rf /'\n`,
    /chroot_setup_cmd .* is not understood/,
  ],
  [
    'a broken template',
    `${MINIMAL}${REPOSITORY}config_opts['description'] = '{% if %}'\n`,
    /test\.cfg:4: description: TemplateSyntaxError: Expected an expression/,
  ],
  [
    'a variable without value',
    `${MINIMAL}config_opts['dnf.conf'] = '[r]\\nbaseurl=file:///$releasever\\n'\n`,
    /\$releasever has no value/,
  ],
];

for (const [what, text, message] of WRONG) {
  test(`an unusable configuration is refused: ${what}`, async (t) => {
    const directory = await folder(t, { 'test.cfg': text });
    const error = await t.throwsAsync(meaning(directory), { instanceOf: KilnError });
    t.is(error?.code, 'E_MOCK_CONFIG');
    t.regex(error?.message ?? '', message);
  });
}

test('forcearch allows another processor, whatever hosts the configuration is for', async (t) => {
  const more = ["['target_arch'] = 's390x'", "['legal_host_arches'] = ['s390x']"];
  const text = [...more, "['forcearch'] = 's390x'"].map((line) => `config_opts${line}\n`).join('');
  const directory = await folder(t, { 'test.cfg': `${MINIMAL}${REPOSITORY}${text}` });
  const { recipe, warnings } = await meaning(directory);
  t.is(recipe.arch, 's390x');
  t.deepEqual(warnings, []);
});

test('a configuration without target_arch is for i386, as with mock, and a warning says so', async (t) => {
  const text = (more: string) => `${MINIMAL.replace(/;.*/, '')}${REPOSITORY}${more}`;
  const warned = async (more: string) => {
    const { recipe, warnings } = await meaning(await folder(t, { 'test.cfg': text(more) }));
    return [recipe.arch, warnings.map(({ message }) => message)];
  };
  const words = ['target_arch is i386, mock’s default: the configuration sets none'];
  t.deepEqual(await warned(''), ['i686', words]);
  t.deepEqual(await warned("config_opts['target_arch'] = 'i386'\n"), ['i686', []]);
  t.deepEqual(await warned("config_opts['target_arch'] = 'x86_64'\n"), ['x86_64', []]);
});

test('a file that is included several times is read once, as by mock', async (t) => {
  const directory = await folder(t, {
    'test.cfg': `${MINIMAL}include('a.tpl')\nconfig_opts['x'] = 'own'\ninclude('b.tpl')\n`,
    'a.tpl': "config_opts['x'] = 'a'\n",
    'b.tpl': "include('a.tpl')\nconfig_opts['y'] = config_opts['x']\n",
    'site-defaults.cfg': "include('a.tpl')\n",
  });
  const { options, warnings } = await load(directory);
  t.is(options.value('y'), 'own');
  t.regex(warnings.map(({ message }) => message).join('\n'), /a\.tpl is included more than once/);
});

test('templates that need each other are an error, as in mock', async (t) => {
  const text = `${MINIMAL}config_opts['a'] = '{{ b }}1'\nconfig_opts['b'] = '{{ a }}2'\n`;
  const { options } = await load(await folder(t, { 'test.cfg': text }));
  t.throws(() => options.value('a'), { message: /test\.cfg:3: a: .*its template has no end/ });
  t.is(options.value('root'), 'x');
  // What a template gives may be one again.
  const grows = `${MINIMAL}config_opts['a'] = "{{ '{{ 1 }' ~ '}{{ 1 }' ~ '}' }}"\n`;
  t.is((await load(await folder(t, { 'test.cfg': grows }))).options.value('a'), '11');
});

test('a configuration that Koji writes is read without a warning', async (t) => {
  const koji = `# Auto-generated by a build system
config_opts['basedir'] = '/var/lib/mock'
config_opts['chroot_setup_cmd'] = 'groupinstall build'
config_opts['chroothome'] = '/builddir'
config_opts['dnf_warning'] = False
config_opts['root'] = 'f44-build-12-345'
config_opts['rpmbuild_networking'] = False
config_opts['rpmbuild_timeout'] = 86400
config_opts['target_arch'] = 'x86_64'
config_opts['use_host_resolv'] = False
config_opts['yum.conf'] = '[main]\\ncachedir=/var/cache/yum\\ndebuglevel=1\\nlogfile=/var/log/yum.log\\nreposdir=/dev/null\\nretries=20\\nobsoletes=1\\ngpgcheck=0\\nassumeyes=1\\nkeepcache=1\\ninstall_weak_deps=0\\nstrict=1\\n\\n# repos\\n\\n[build]\\nname=build\\nbaseurl=https://koji/repos/f44-build/345/x86_64\\n        https://koji2/repos/x86_64\\n'

config_opts['plugin_conf']['ccache_enable'] = False
config_opts['plugin_conf']['root_cache_enable'] = False
config_opts['plugin_conf']['yum_cache_enable'] = False

config_opts['macros']['%_host'] = 'x86_64-koji-linux-gnu'
config_opts['macros']['%_host_cpu'] = 'x86_64'
config_opts['macros']['%_rpmfilename'] = '%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm'
config_opts['macros']['%_topdir'] = '/builddir/build'
config_opts['macros']['%distribution'] = 'Unknown'
`;
  const { recipe, warnings, resultDirectory } = await meaning(
    await folder(t, { 'test.cfg': koji }),
  );
  t.deepEqual(warnings, []);
  t.is(resultDirectory, '/var/lib/mock/f44-build-12-345/result');
  t.like(recipe, { groups: ['build'], packages: [] });
  t.like(recipe.repositories?.[0], {
    id: 'build',
    gpgcheck: false,
    baseurl: ['https://koji/repos/f44-build/345/x86_64', 'https://koji2/repos/x86_64'],
  });
});
