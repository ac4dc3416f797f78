import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import fc from 'fast-check';
import { KilnError } from '../../src/errors.ts';
import { writeRecipe } from '../../src/jobs/mock/chroot.ts';
import { defaultOptions } from '../../src/jobs/mock/config/defaults.ts';
import { evaluate } from '../../src/jobs/mock/config/language/evaluate.ts';
import { parse } from '../../src/jobs/mock/config/language/parse.ts';
import { asLiteral, type ConfigValue, isDict } from '../../src/jobs/mock/config/language/values.ts';
import { description, expandAll, loadConfig } from '../../src/jobs/mock/config/load.ts';
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

function load(directory: string, name = 'test.cfg') {
  return loadConfig(join(directory, name), {
    paths,
    directory,
    arch: 'x86_64',
    home: join(directory, 'home'),
  });
}

function meaning(directory: string, switches: { pattern: string; enabled: boolean }[] = []) {
  return configMeaning(load(directory), { host: 'x86_64', switches });
}

/** A value as JSON has it. */
function plain(value: ConfigValue): unknown {
  if (isDict(value)) return Object.fromEntries([...value].map(([key, it]) => [key, plain(it)]));
  return Array.isArray(value) ? value.map(plain) : value;
}

/** What Python makes of a configuration: `config_opts`, which also answers to attributes. */
const PYTHON = `
import json, sys
class Opts(dict):
    __getattr__ = dict.__getitem__
config_opts = Opts(json.loads(sys.argv[2]))
exec(open(sys.argv[1]).read())
print(json.dumps(config_opts))
`;

const LANGUAGE = String.raw`
# everything that real configurations are made of
config_opts['plain'] = 'a' "b"  # a comment
config_opts["triple"] = """
[main]
it's "quoted" \
and goes on
"""
config_opts['raw'] = r'a\nb' + R"\d"
config_opts['escapes'] = 'tab\t nl\n oct\101 hex\x41 uni\u00e9 \q \'\"'
config_opts['numbers'] = [0, -3, 0x1F, 1.5, 0o17]
config_opts['words'] = (True, False, None)
config_opts['one'] = ('x',)
config_opts['nothing'] = ()
config_opts['dict'] = {'a': 1, 'b': [1, 2, {'c': 'd'}],}
config_opts['dict']['e'] = 'f'
config_opts['dict'].update({'g': 'h', 'a': 2})
config_opts['list'] = ['a',
    'b',
]
config_opts['list'] += ['c']
config_opts['list'].append('d'); config_opts['list'].extend(('e', 'f'))
config_opts['list'].insert(0, 'z')
config_opts['list'].remove('b')
config_opts['text'] = 'x'
config_opts['text'] += 'y'
config_opts['package_manager'] = 'dnf'
config_opts['dnf.conf'] = 'first'
config_opts[f"{config_opts.package_manager}.conf"] += f'\n{{braces}} {config_opts["text"]}'
config_opts.setdefault('set', {})
config_opts['set'].setdefault('inner', 'default')
config_opts.setdefault('set', 'not this')
config_opts['got'] = config_opts.get('missing', 'default')
config_opts['formatted'] = '%s/%d%%' % ('a', 3)
config_opts['named'] = '%(x)s' % {'x': 'y'}
config_opts['is'] = config_opts['text'] != 'i686'
config_opts['chosen'] = 'yes' if 'x' in config_opts['text'] and not False else 'no'
config_opts['compared'] = [1 < 2, 'a' >= 'b', 1 in [1, 2], 'q' not in 'abc', 1 == 1]
config_opts['made'] = [int('41') >= 41, int(' -3 '), int(2.9), str(7) + str(None), len('abc'), len([1]), bool('')]
config_opts['joined'] = ' '.join(['a', 'b']).upper().split()
local = 'variable'
config_opts['variable'] = local
del config_opts['one']
config_opts['popped'] = config_opts.pop('nothing', 'x')
`;

test('a configuration means what Python makes of it', async (t) => {
  const directory = await folder(t, { 'test.cfg': LANGUAGE });
  const file = join(directory, 'test.cfg');
  const options = defaultOptions(paths, { arch: 'x86_64' });
  const before = options.names();
  evaluate(parse(LANGUAGE, file), {
    options,
    file,
    include: () => t.fail(),
    warn: (message) => t.fail(message),
  });
  const { stdout } = await execa('python3', ['-c', PYTHON, file, '{}']);
  const expected = JSON.parse(stdout) as Record<string, unknown>;
  const ours = Object.fromEntries(
    options
      .names()
      .filter((name) => name in expected || !before.includes(name))
      .map((name) => [name, plain(options.get(name))]),
  );
  t.deepEqual(ours, expected);
  t.true(Object.keys(expected).length > 20);
});

test('every text that Python writes is read, and every value that kiln writes is read by Python', async (t) => {
  const texts = fc.sample(fc.string({ unit: 'grapheme', maxLength: 40 }), {
    numRuns: 300,
    seed: 3,
  });
  texts.push(
    ...fc.sample(fc.string({ unit: 'binary-ascii' }), { numRuns: 300, seed: 4 }),
    '\0',
    '\'"\\',
  );
  const python = `
import json, sys, ast
texts = json.load(sys.stdin)
print(json.dumps([[repr(t) for t in texts["ours"]], [ast.literal_eval(t) for t in texts["literals"]]]))`;
  const { stdout } = await execa('python3', ['-c', python], {
    input: JSON.stringify({ ours: texts, literals: texts.map(asLiteral) }),
  });
  const [written, readBack] = JSON.parse(stdout) as [string[], string[]];
  t.deepEqual(readBack, texts);
  for (const [index, literal] of written.entries()) {
    const [statement] = parse(`x = ${literal}`, 'x');
    t.true(statement?.kind === 'assign');
    if (statement?.kind !== 'assign') return;
    t.deepEqual(statement.value, { kind: 'constant', value: texts[index]! });
  }
});

const REFUSED: readonly (readonly [string, RegExp])[] = [
  ['if True:\n  pass', /^\S+:2: `if` is not understood/],
  ['for x in []: pass', /:2: `for` is not understood/],
  ['x = open("/etc/passwd")', /:2: open\(\) is not understood/],
  ['x = __import__("os").system("touch /tmp/never")', /:2: __import__\(\) is not understood/],
  ['x = config_opts["missing"]', /:2: there is no "missing"/],
  ['config_opts["a"] = [1', /:2: a bracket that is opened here is never closed/],
  ['config_opts["a"] = "unfinished', /:2: the string that starts here has no end/],
  ['config_opts["a"] = lambda: 1', /:2: `lambda` is not understood/],
  ['config_opts["a"] = 1 < 2 < 3', /:2: chained comparisons/],
  ['config_opts = {}', /:2: config_opts as a whole/],
  ['  config_opts["a"] = 1', /:2: indented/],
  ['config_opts["a"] = int("rawhide")', /:2: int\(\) of "rawhide"/],
  ['config_opts["a"] = int()', /:2: int\(\) is not understood/],
  ['config_opts["a"] = 1 + "a"', /:2: only two texts/],
  ['include("missing.tpl")', /:2: cannot read .*missing\.tpl/],
  [`config_opts["a"] = ${'['.repeat(100)}${']'.repeat(100)}`, /:2: this is nested too deeply/],
];

for (const [text, message] of REFUSED) {
  test(`refused with its place: ${text.slice(0, 40)}`, async (t) => {
    const directory = await folder(t, { 'test.cfg': `# a comment\n${text}\n` });
    const error = t.throws(() => load(directory), { instanceOf: KilnError });
    t.is(error?.code, 'E_MOCK_CONFIG');
    t.regex(error?.message ?? '', message);
  });
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

test('a configuration of mock becomes an image recipe that kiln takes', async (t) => {
  const directory = await folder(t, {
    'test.cfg': CONFIG,
    'templates/demo.tpl': TEMPLATE,
    'site-defaults.cfg': "config_opts['rpmbuild_timeout'] = 1\nconfig_opts['hostname'] = 'site'\n",
    'home/.config/mock.cfg': "config_opts['macros']['%packager'] = 'you'\n",
  });
  t.is(description(load(directory)), 'Demo 42');
  const { recipe, warnings, ...rest } = meaning(directory);
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
  const path = await writeRecipe({ root: directory }, { root: rest.root, recipe });
  t.is(await writeRecipe({ root: directory }, { root: rest.root, recipe }), path);
  const loaded = await loadImageRecipe(path, {
    variables: { KILN_STATE: '/x', KILN_FIXTURES: '/x' },
    arch: 'aarch64',
    findByName: async () => undefined,
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
    /^19: `import os` is left out/,
    /^18: misspelt_optoin is left out/,
    /the plugin sign is left out/,
    /the plugin bind_mount: .* is read-only in the root/,
    /\[new\] fancy=1 is left out/,
    /\[new\] skip_if_unavailable is left out/,
  ]) {
    t.true(
      said.some((line) => expected.test(line)),
      `${expected} in\n${said.join('\n')}`,
    );
  }
  t.is(said.length, 6, said.join('\n'));
  t.deepEqual(loaded.modules?.enable, ['ruby:3']);
});

test('what cannot be had is named, with what to do instead', async (t) => {
  const names = [
    ...['macrofile', 'scm', 'external_buildrequires', 'redhat_subscription_required'],
    ...['ssl_ca_bundle_path', 'ssl_extra_certs', 'use_buildroot_image', 'buildroot_image'],
    ...['forcearch', 'no_root_shells'],
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
  const said = meaning(directory).warnings.map(({ message }) => message);
  for (const name of [...names, ...[...plugins, 'mount'].map((plugin) => `the plugin ${plugin}`)]) {
    const line = said.find((message) => message.startsWith(`${name} is left out: `));
    t.regex(line ?? '', /: \S+(?: \S+){3}/, `${name} in\n${said.join('\n')}`);
    t.notRegex(line ?? '', /nothing like it/);
  }
});

test('modules and logins of dnf.conf are what a recipe says', async (t) => {
  const plain = (text: string) => `${MINIMAL}${text}`;
  const conf = (lines: string) => `config_opts['dnf.conf'] = '''${lines}'''\n`;
  const directory = await folder(t, { 'test.cfg': '' });
  const meant = async (text: string) => {
    await writeFile(join(directory, 'test.cfg'), plain(text));
    const { recipe, warnings } = meaning(directory);
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
  await writeFile(
    join(directory, 'test.cfg'),
    plain(`${conf(main)}config_opts['module_setup_commands'] = [('switch-to', 'a:1')]\n`),
  );
  t.throws(() => meaning(directory), {
    message: /module_setup_commands: switch-to is not understood/,
  });
});

test('repositories are switched by name or glob, and one that is not there is an error', async (t) => {
  const directory = await folder(t, { 'test.cfg': CONFIG, 'templates/demo.tpl': TEMPLATE });
  const ids = (...switches: { pattern: string; enabled: boolean }[]) =>
    meaning(directory, switches).recipe.repositories?.map(({ id }) => id);
  t.deepEqual(ids({ pattern: 'local', enabled: true }), ['local', 'demo', 'new']);
  t.deepEqual(ids({ pattern: '*', enabled: false }, { pattern: 'n?w', enabled: true }), ['new']);
  t.throws(() => ids({ pattern: 'nobody', enabled: true }), {
    message: /no repository is called nobody/,
  });
  t.throws(() => ids({ pattern: '*', enabled: false }), {
    message: /no repository that is enabled/,
  });
});

const MINIMAL = "config_opts['root'] = 'x'\nconfig_opts['chroot_setup_cmd'] = 'install a'\n";
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
    /the template in description is not understood/,
  ],
  [
    'a variable without value',
    `${MINIMAL}config_opts['dnf.conf'] = '[r]\\nbaseurl=file:///$releasever\\n'\n`,
    /\$releasever has no value/,
  ],
];

for (const [what, text, message] of WRONG) {
  test(`a configuration that cannot be used: ${what}`, async (t) => {
    const directory = await folder(t, { 'test.cfg': text });
    const act = () => {
      meaning(directory);
      expandAll(load(directory).options);
    };
    const error = t.throws(act, { instanceOf: KilnError });
    t.is(error?.code, 'E_MOCK_CONFIG');
    t.regex(error?.message ?? '', message);
  });
}

test('a file that is included more than once is read once, as by mock', async (t) => {
  const directory = await folder(t, {
    'test.cfg': `${MINIMAL}include('a.tpl')\nconfig_opts['x'] = 'own'\ninclude('b.tpl')\n`,
    'a.tpl': "config_opts['x'] = 'a'\n",
    'b.tpl': "include('a.tpl')\nconfig_opts['y'] = config_opts['x']\n",
    'site-defaults.cfg': "include('a.tpl')\n",
  });
  const { options, warnings } = load(directory);
  t.is(options.get('y'), 'own');
  t.regex(warnings.map(({ message }) => message).join('\n'), /a\.tpl is included more than once/);
});

test('templates that need each other come to an end', async (t) => {
  const text = `${MINIMAL}config_opts['a'] = '{{ b }}1'\nconfig_opts['b'] = '{{ a }}2'\n`;
  const options = expandAll(load(await folder(t, { 'test.cfg': text })).options);
  t.is(options.get('a'), '21');
  // What a template gives may be one again, but not for ever.
  const grows = `${MINIMAL}config_opts['a'] = "{{ '{{ 1 }' ~ '}{{ 1 }' ~ '}' }}"\n`;
  t.is(expandAll(load(await folder(t, { 'test.cfg': grows })).options).get('a'), '11');
});

test('what Koji writes for its builders is understood, without a word', async (t) => {
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
  const { recipe, warnings, resultDirectory } = meaning(await folder(t, { 'test.cfg': koji }));
  t.deepEqual(warnings, []);
  t.is(resultDirectory, '/var/lib/mock/f44-build-12-345/result');
  t.like(recipe, { groups: ['build'], packages: [] });
  t.like(recipe.repositories?.[0], {
    id: 'build',
    gpgcheck: false,
    baseurl: ['https://koji/repos/f44-build/345/x86_64', 'https://koji2/repos/x86_64'],
  });
});

test('a configuration cannot hang kiln or fill its memory', async (t) => {
  const nested = (depth: number): Record<string, string> =>
    Object.fromEntries(
      Array.from({ length: depth }, (_, at) => [
        `${at}.cfg`,
        `include('${at + 1}.cfg')\n`.repeat(4),
      ]),
    );
  const doubled = (step: string) => Array(40).fill(step).join('\n');
  const loops =
    '{% for a in l %}{% for a in l %}{% for a in l %}x{% endfor %}{% endfor %}{% endfor %}';
  const cases: Record<string, RegExp> = {
    "include('/dev/zero')": /cannot read \/dev\/zero/,
    "include('fifo')": /cannot read .*fifo/,
    "include('0.cfg')": /more than 16 files include one another/,
    [Array.from({ length: 300 }, (_, at) => `include('n${at}.cfg')`).join('\n')]:
      /more than 256 files are included/,
    [`a = ['x']\n${doubled('a.extend(a)')}`]: /this asks for too much/,
    [`a = 'xy'\n${doubled("a = f'{a}{a}'")}`]: /this asks for too much/,
    [`a = 'xy'\n${doubled("a = '%s%s' % (a, a)")}`]: /this asks for too much/,
    [`a = 'xy'\n${doubled('a = a.join([a, a, a])')}`]: /this asks for too much/,
    [`a = 'xx'\n${doubled("a = a.replace('x', 'xx')")}`]: /this asks for too much/,
    [`config_opts['l'] = 'x'.join(['${'a,'.repeat(999)}']).split(',')\nconfig_opts['root'] = '${loops}'`]:
      /more than \d+ steps/,
  };
  const many = Array.from({ length: 300 }, (_, at): [string, string] => [`n${at}.cfg`, '']);
  const directory = await folder(t, {
    ...nested(20),
    '20.cfg': '',
    ...Object.fromEntries(many),
  });
  await execa('mkfifo', [join(directory, 'fifo')]);
  for (const [text, message] of Object.entries(cases)) {
    await writeFile(join(directory, 'test.cfg'), `config_opts['root'] = 'demo'\n${text}\n`);
    const error = t.throws<KilnError>(() => expandAll(load(directory).options), undefined, text);
    t.is(error?.code, 'E_MOCK_CONFIG', `${text}: ${error?.stack}`);
    t.regex([error?.message, (error?.cause as Error)?.message].join(' '), message, text);
  }
});
