import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { KilnError } from '../../src/errors.ts';
import { describeConfigs, loadConfig } from '../../src/jobs/mock/config/load.ts';
import { buildSettings, defaultSettings } from '../../src/jobs/mock/config/recipe.ts';
import { MAIN, PATIENCE } from '../support/busybox-state.ts';
import { compareFolder, kilnsOpinion } from './second-opinion.ts';

/** Writes files into a folder that is gone after the test, and returns its path. */
async function folder(t: ExecutionContext, files: Record<string, string>): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-mock-evaluate-'));
  t.teardown(() => rm(directory, { recursive: true }));
  for (const [name, text] of Object.entries(files)) {
    await mkdir(dirname(join(directory, name)), { recursive: true });
    await writeFile(join(directory, name), text);
  }
  return directory;
}

/** What a configuration of this text sets `out` to. */
async function out(t: ExecutionContext, text: string): Promise<unknown> {
  const directory = await folder(t, { 'test.cfg': `config_opts['root'] = 'x'\n${text}` });
  return (await kilnsOpinion(directory, 'test')).options.value('out');
}

async function refusal(t: ExecutionContext, directory: string): Promise<KilnError> {
  const error = await kilnsOpinion(directory, 'test').catch((it: unknown) => it);
  t.true(error instanceof KilnError, String(error));
  t.is((error as KilnError).code, 'E_MOCK_CONFIG');
  return error as KilnError;
}

const CONSTRUCTS: Readonly<Record<string, string>> = {
  'epel-5': `config_opts['root'] = 'epel-5-x86_64'
if 'macros' not in config_opts:  config_opts['macros'] = {}
config_opts['macros']['%__arch_install_post'] = '%{nil}'
config_opts['yum.conf'] = """
[main]
best=1
"""
`,
  branches: `config_opts['root'] = 'x'
for arch, names in [('x86_64', ('a', 'b')), ('i686', ())]:
    if arch == config_opts['target_arch'] or arch.startswith('x'):
        config_opts.setdefault('named', []).extend(names)
    elif not names:
        config_opts['none'] = arch
    else:
        pass
while len(config_opts['named']) < 5:
    config_opts['named'] += ['more']
try:
    config_opts['number'] = int('rawhide')
except ValueError as error:
    config_opts['number'] = str(error)
with_all = [name.upper() for name in config_opts['named'] if name != 'b']
config_opts['all'] = {name: len(name) for name in with_all}
def plus(text, *more, sep='+'):
    return sep.join([text, *more])
config_opts['plus'] = plus('a', 'b', sep='/')
config_opts['sorted'] = sorted({3, 1, 2}, key=lambda n: -n)
del config_opts['none']
`,
  modules: `import os, re, sys, platform
from os import path
import os.path as p
import json as j
config_opts['root'] = 'x-' + os.uname().machine + platform.machine()
config_opts['joined'] = os.path.join('/a', 'b') + path.basename('/c/d') + p.dirname('/e/f') + os.sep
config_opts['matched'] = re.sub(r'(\\d+)', r'<\\1>', 'f41')
config_opts['json'] = j.loads('[1, {"a": null}]')
config_opts['new'] = sys.version_info >= (3, 6)
config_opts['literal'] = literal_eval("('a', 1)")
`,
  python: `config_opts['root'] = 'x'
config_opts['compared'] = [1 < 2 < 3, 'a' * 3, 7 // 2, -7 % 3, 2 ** 10, 1 if not [] else 2, [1] == [1], '13' == 13]
config_opts['sliced'] = ('abcdef'[1:4], [1, 2, 3][::-1], 'a\\tb\\u00e9\\N{BULLET}', b'bytes'.decode(), rb'\\d'.decode('ascii'))
config_opts['formatted'] = f"{config_opts['root']!r:>6}|{3.14159:.2f}|%(a)s|{{}}" + '%05d %s %r' % (3, None, 'q')
config_opts['attribute'] = config_opts.package_manager
config_opts['merged'] = {**config_opts['macros'], 'x': 1}
config_opts.update(updated={'a': [1, ('b', None)]}, dnf_command='dnf')
config_opts['got'] = [config_opts.get('nothing', 5), config_opts.get('system_dnf_command'), 'yum_command' in config_opts]
config_opts['popped'] = config_opts.pop('sliced', 'gone')[0]
config_opts['update'] = 'shadows the method, as in mock'
a, *b = 'x y z'.split()
config_opts['unpacked'] = b
`,
  jinja: `config_opts['root'] = 'x-{{ releasever }}'
config_opts['releasever'] = '13'
config_opts['versions'] = [1, 2, 3]
config_opts['tables'] = {'a': '{{ releasever }}', 'b': ['{{ root }}', ('{{ root }}',)]}
config_opts['snippets'] = [
    "{{ '13' == 13 }} {{ releasever == 13 }} {{ releasever|int == 13 }}",
    "{{ undefined_thing == None }} {{ undefined_thing is defined }} {{ undefined_thing }}",
    "{{ versions == [1, 2, 3] }} {{ versions }} {{ tables }} {{ [1, 'a', none, true] }}",
    "{{ -7 % 3 }} {{ 7 // 2 }} {{ 7 / 2 }} {{ 2 ** 3 }} {{ 1.0 }} {{ '%s-%d' % ('a', 2) }}",
    "{{ versions|join(',') }} {{ versions|map('string')|list }} {{ versions|sum }} {{ 'a b'|title }}",
    "{% for v in versions if v != 2 %}{{ loop.index }}:{{ v }}{% if not loop.last %}, {% endif %}{% else %}none{% endfor %}",
    "{%- set x = namespace(n=0) -%}{% for v in versions %}{% set x.n = x.n + v %}{% endfor %}{{ x.n }}",
    "{% macro m(a, b='c') %}<{{ a }}{{ b }}>{% endmacro %}{{ m(1) }}{{ m(1, b=2) }}",
    "{% filter upper %}abc{% endfilter %}{{ 'x'.replace('x', 'y') }}{{ 'abc'[1] }}{{ 'a,b'.split(',')[1:] }}",
    "{{ root.startswith('x') and 'yes' or 'no' }} {{ 'é' }} {{ '\\\\u00e9' }} {{ dict(a=1) }} {{ range(3)|list }}",
    "{# nothing #}{% raw %}{{ no }}{% endraw %}", "{{ nothing.at.all }}", "{{ 1 / 0 }}", "{% if %}", "{{ ().__class__ }}",
]
for number, snippet in enumerate(config_opts['snippets']):
    config_opts['snippet-%d' % number] = snippet
config_opts['snippets'] = []
config_opts['crlf'] = 'a\\r\\nb\\r{{ 1 }}\\r\\n'
config_opts['again'] = "{{ '{{ ' ~ 'releasever' ~ ' }' ~ '}' }}"
config_opts['endless'] = '{{ endless }}x'
`,
  'crlf-lines':
    'config_opts["root"] = "x"\r\nif True:\r\n    config_opts["text"] = """a\r\nb"""\r\n',
  backslashes: `config_opts['root'] = 'x'\ninclude('backslashes.tpl')  \nconfig_opts['after'] = 1\n`,
  'bad-escape': `config_opts['root'] = 'x'\ninclude('bad.tpl')\n`,
  computed: `config_opts['root'] = 'x'\ninclude("back" + f"slashes.{'tpl'}")\n  include('included.tpl')\n`,
  ends: "config_opts['root'] = 'x'\nexit_with = SystemExit(3)\nraise exit_with\n",
  unnamed: "config_opts['root'] = missing\n",
  'bad-macro': "config_opts['root'] = 'x'\nconfig_opts['macros']['a b'] = 'c'\n",
  'plain-macro': "config_opts['root'] = 'x'\nconfig_opts['macros']['vendor'] = '{{ root }}'\n",
  says: "config_opts['root'] = 'x'\nprint('hello', 1, sep='-')\n",
};

const INCLUDED = {
  'backslashes.tpl': String.raw`config_opts['tabbed'] = 'a\tb\\n'
config_opts['newline'] = """a\nb"""`,
  'bad.tpl': String.raw`config_opts['digits'] = r'\d+'`,
  'included.tpl': "config_opts['included'] = config_opts['tabbed']",
};

test('a configuration is read as Python, Jinja and mock read it', async (t) => {
  const configs = Object.entries(CONSTRUCTS).map(([name, text]) => [`${name}.cfg`, text] as const);
  const directory = await folder(t, { ...Object.fromEntries(configs), ...INCLUDED });
  const loaded = await compareFolder(t, directory);
  const fails = ['bad-escape', 'bad-macro', 'ends', 'unnamed'];
  t.deepEqual(
    loaded.sort(),
    Object.keys(CONSTRUCTS)
      .filter((name) => !fails.includes(name))
      .sort(),
  );
});

test('a mistake is reported with its file and line, also in included files', async (t) => {
  const directory = await folder(t, {
    'first.tpl': "config_opts['a'] = 'a'\n\n",
    'second.tpl': "config_opts['b'] = 1\nconfig_opts['c'] = 1 / 0",
    'third.tpl': 'x = (',
  });
  const place = async (text: string) => {
    await writeFile(join(directory, 'test.cfg'), `config_opts['root'] = 'x'\n${text}\n`);
    const { message } = await refusal(t, directory);
    return message.replaceAll(`${directory}/`, '');
  };
  t.is(
    await place("include('first.tpl')\nconfig_opts['x'] = y"),
    "test.cfg:3: NameError: name 'y' is not defined",
  );
  t.regex(
    await place("include('first.tpl')\n\ninclude('second.tpl')"),
    /^second\.tpl:2: ZeroDivisionError/,
  );
  t.regex(await place("include('third.tpl')\nx = 1"), /^third\.tpl:1: .*never closed/);
  t.regex(
    await place("include('none.tpl')"),
    /^test\.cfg:2: cannot read none\.tpl: there is no such file/,
  );
  t.regex(await place('include(nothing)'), /^test\.cfg:2: NameError/);
  t.regex(await place('def f():\n  return 1 + "a"\nf()'), /^test\.cfg:3: TypeError/);
  t.regex(await place('if True:\nx = 1'), /^test\.cfg:3: expected an indented block/);
  t.regex(await place('raise SystemExit(1)'), /^test\.cfg:2: it ends the program/);
});

test('an option knows where it was last set', async (t) => {
  const directory = await folder(t, {
    'test.cfg': `config_opts['root'] = 'x'
include('more.tpl')
config_opts['plugin_conf']['ccache_enable'] = True
config_opts['macros']['%a'] = 'b'
seen = config_opts['macros']
config_opts['files'].update({'a': 'b'}); config_opts.setdefault('new', 1)
`,
    'more.tpl':
      "\nconfig_opts['dnf.conf'] = '''\n[main]\n'''\nconfig_opts['plugin_conf']['x'] = 1\n",
  });
  const { options } = await kilnsOpinion(directory, 'test');
  const places = ['root', 'dnf.conf', 'plugin_conf', 'macros', 'files', 'new', 'environment'].map(
    (name) => {
      const at = options.placeOf(name);
      return at && `${at.file.slice(directory.length + 1)}:${at.line}`;
    },
  );
  t.deepEqual(places, [
    'test.cfg:1',
    'more.tpl:2',
    'test.cfg:3',
    'test.cfg:4',
    'test.cfg:6',
    'test.cfg:6',
    undefined,
  ]);
});

const ELSEWHERE: readonly (readonly [string, RegExp])[] = [
  ["config_opts['x'] = open('/etc/passwd').read()", /:2: open\(\) is not there/],
  ["import os\nconfig_opts['x'] = os.environ['HOME']", /:3: os\.environ is not there/],
  ["import os\nif os.path.exists('/etc/mock'): pass", /:3: os\.path\.exists is not there/],
  ['from subprocess import check_output', /:2: subprocess\.check_output is not there/],
  ["import requests\nx = requests.get('http://x')", /:3: requests\.get is not there/],
  ['x = socket.gethostname()', /:2: socket\.gethostname is not there/],
  // It must not go on as if there were nothing.
  [
    'try:\n  import time\n  x = time.time()\nexcept BaseException:\n  x = 0',
    /:4: time\.time is not there/,
  ],
  [
    "try:\n  x = b'\\x80'.decode('cp1252')\nexcept LookupError:\n  x = '?'",
    /:3: the encoding cp1252 is not there/,
  ],
];

test('a configuration that needs more than its own text is an error', async (t) => {
  for (const [text, message] of ELSEWHERE) {
    const directory = await folder(t, { 'test.cfg': `config_opts['root'] = 'x'\n${text}\n` });
    t.regex((await refusal(t, directory)).message, message, text);
  }
  t.is(await out(t, "import os, time, requests\nconfig_opts['out'] = 'unused'"), 'unused');
});

/** Real modules, which a hostile configuration finds. */
const REAL = 'import shlex\nos = shlex.os\nsys = shlex.sys\nmodules = sys.modules\n';

const ATTEMPTS = [
  "os.open('/etc/passwd', 0)",
  "os.listdir('/')",
  "os.stat('/')",
  "os.mkdir('/x')",
  "os.open('/proc/self/mem', 2)",
  "os.open('..', 0)",
  "os.chdir('..')",
  'os.fork()',
  "os.execv('/bin/sh', ['sh'])",
  'os.kill(1, 9)',
  'os.setuid(0)',
  "os.chroot('.')",
  'os.pipe()',
  "os.memfd_create('x')",
  'os.sched_setaffinity(0, [0])',
  "os.write(os.open('/dev/null', 1), b'')",
  "modules['resource'].setrlimit(7, (1024, 1024))",
  "native('socket', 1, 1, 0)",
  "native('ptrace', 16, 1, 0, 0)",
  "native('mount', b'x', b'/', b'tmpfs', 0, 0)",
  "native('unshare', 0x10000000)",
  "native('syscall', 41, 1, 1, 0)",
  "native('prctl', 22, 2, 0)",
];

test('a hostile configuration reaches no file, program, process or network', async (t) => {
  const attempt = (expression: string) => `try:
  found.append(repr(${expression}))
except Exception as error:
  found.append(type(error).__name__ + ' ' + str(getattr(error, 'errno', '')))
`;
  // A function of a configuration sees no other of its names.
  const native = `def native(name, *given, libc=modules['ctypes'].CDLL(None, use_errno=True), errno=modules['ctypes'].get_errno):
  result = getattr(libc, name)(*given)
  if result == -1:
    raise OSError(errno(), name)
  return result
`;
  const tried = ["os.getpid() and 'real'", "native('getpid') and 'real'", ...ATTEMPTS];
  const text = `${REAL}${native}found = []\n${tried.map(attempt).join('')}config_opts['out'] = found\n`;
  const [real, alsoReal, ...found] = (await out(t, text)) as string[];
  // What is asked is the real thing: what needs no refused call works.
  t.deepEqual([real, alsoReal], ["'real'", "'real'"]);
  t.is(found.length, ATTEMPTS.length);
  for (const [at, answer] of found.entries()) {
    t.regex(
      answer,
      /^(?:PermissionError|OSError|FileNotFoundError|ValueError) (?:1|2|)$/,
      ATTEMPTS[at],
    );
  }
});

test('a hostile configuration cannot speak for kiln, or make it read a file', async (t) => {
  const secret = await folder(t, { secret: 'the secret', 'test.cfg': '' });
  const ask = (path: string) => `${REAL}import json
body = json.dumps({'type': 'message', 'value': {'read': ${JSON.stringify(path)}}}).encode()
os.write(3, len(body).to_bytes(4, 'little') + body)
length = int.from_bytes(os.read(6, 4), 'little')
config_opts['out'] = os.read(6, length).decode()
`;
  t.regex(String(await out(t, ask(join(secret, 'secret')))), /is not included: it lies neither/);
  t.notRegex(String(await out(t, ask('/etc/shadow'))), /root:/);
  const forged = `${REAL}import json
body = json.dumps({'type': 'message', 'value': {'answer': {'options': [['root', {'value': [[[]]]}]], 'files': [], 'warnings': 1}}}).encode()
os.write(3, len(body).to_bytes(4, 'little') + body)
`;
  const directory = await folder(t, { 'test.cfg': `config_opts['root'] = 'x'\n${forged}` });
  t.regex((await refusal(t, directory)).message, /cannot be evaluated/);
});

test('a configuration can include files beside it or in the configuration directory, but no link', async (t) => {
  const configs = await folder(t, { 'a.tpl': "config_opts['out'] = 'a'\n" });
  const other = await folder(t, { 'b.tpl': "config_opts['out'] = 'b'\n" });
  const own = await folder(t, { 'own.tpl': "config_opts['out'] = 'own'\n" });
  await symlink(join(other, 'b.tpl'), join(own, 'link.tpl'));
  const load = async (include: string) => {
    const path = join(own, 'test.cfg');
    await writeFile(path, `config_opts['root'] = 'x'\ninclude('${include}')\n`);
    const place = { paths: { root: '/x' }, directory: configs, arch: 'x86_64' };
    return (await loadConfig(path, { ...place, home: '/nonexistent' })).options.value('out');
  };
  t.is(await load('a.tpl'), 'a');
  t.is(await load(join(own, 'own.tpl')), 'own');
  await t.throwsAsync(load(join(other, 'b.tpl')), {
    message: /test\.cfg:2: .*b\.tpl is not included/,
  });
  await t.throwsAsync(load(join(own, 'link.tpl')), { message: /link\.tpl is not included/ });
  await t.throwsAsync(load('/etc/shadow'), { message: /\/etc\/shadow is not included/ });
});

test('a configuration cannot hang kiln or fill its memory', async (t) => {
  t.timeout(300_000 * PATIENCE);
  const many = Array.from({ length: 300 }, (_, at): [string, string] => [`n${at}.cfg`, '']);
  const includes = many.map(([name]) => `include('${name}')`).join('\n');
  const directory = await folder(t, {
    ...Object.fromEntries(many),
    'big.tpl': `# ${'x'.repeat(2 ** 20)}`,
  });
  await execa('mkfifo', [join(directory, 'fifo')]);
  const cases: Record<string, RegExp> = {
    "include('/dev/zero')": /cannot read \/dev\/zero: .*is not a regular file/,
    "include('fifo')": /cannot read .*fifo: .*is not a regular file/,
    "include('big.tpl')": /cannot read .*big\.tpl: .*is larger than/,
    [includes]: /includes more than 256 files/,
    "a = ['x']\nwhile True: a += a": /MemoryError/,
    "config_opts['out'] = 'x' * 2 ** 26": /cannot be evaluated/,
    "a = []\nfor _ in range(10 ** 5): a = [a]\nconfig_opts['out'] = a":
      /out: .*(?:nested too deeply|recursion)/,
    "config_opts['out'] = {i for i in range(3)}": /out: .*it is a set/,
    'import shlex\nshlex.os._exit(0)': /cannot be evaluated/,
  };
  for (const [text, message] of Object.entries(cases)) {
    await writeFile(join(directory, 'test.cfg'), `config_opts['root'] = 'demo'\n${text}\n`);
    const error = await kilnsOpinion(directory, 'test').then(
      ({ options }) => t.throws<KilnError>(() => options.value('out'), undefined, text),
      (it: unknown) => it as KilnError,
    );
    t.is(error?.code, 'E_MOCK_CONFIG', `${text}: ${error?.stack}`);
    t.regex([error?.message, (error?.cause as Error)?.message].join(' '), message, text);
  }
});

test('the other configurations are described even if one kills the process that reads it', async (t) => {
  const says = (text: string) =>
    `config_opts['root'] = 'x'\nconfig_opts['description'] = '${text}'\n`;
  const directory = await folder(t, {
    '1.cfg': says('one'),
    '2.cfg': 'import shlex\nshlex.os._exit(0)\n',
    '3.cfg': says('{{ root }}'),
    '4.cfg': 'x = \n',
    '5.cfg': says('five'),
  });
  const files = ['1', '2', '3', '4', '5'].map((name) => join(directory, `${name}.cfg`));
  const place = { paths: { root: '/x' }, directory, arch: 'x86_64' };
  const found: (string | undefined)[] = [];
  for await (const text of describeConfigs(files, place)) found.push(text);
  t.deepEqual(found, ['one', undefined, 'x', undefined, 'five']);
});

test('without Jinja, a configuration is refused, and the missing package named', async (t) => {
  const directory = await folder(t, { 'test.cfg': "config_opts['root'] = 'x'\n" });
  const words = ['mock', '--configdir', directory, '-r', 'test', '--debug-config'];
  const hidden = 'mount -t tmpfs tmpfs /usr/lib/python3/dist-packages/jinja2 && exec "$@"';
  const argv = ['--mount', 'sh', '-c', hidden, 'sh', process.execPath, MAIN, ...words];
  const env = { KILN_STATE: join(directory, 'state'), HOME: directory };
  const { exitCode, stderr } = await execa('unshare', argv, { env, reject: false });
  t.regex(stderr, /cannot be evaluated: No module named 'jinja2/);
  t.regex(stderr, /install python3-jinja2/);
  t.is(exitCode, 3, stderr);
});

test('the settings of a recipe for builds have mock’s defaults', async (t) => {
  const { options } = await loadConfig(undefined, { paths: { root: '/x' }, arch: 'x86_64' });
  t.deepEqual(defaultSettings('/x/mock'), buildSettings(options));
});
