import { chmod, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { startOrder } from '../../src/service/definition/service-units.ts';
import { Tree } from '../../src/service/lifecycle/tree.ts';
import { GIVEN, HONOURED, UNSUPPORTED } from '../../src/service/unit/keys.ts';
import { loadUnit } from '../../src/service/unit/load-unit.ts';
import {
  commandArguments,
  parseEnvironmentFile,
  parseExecLine,
  parseTimeSpan,
  unescapeUnitName,
  unitNameParts,
} from '../../src/service/unit/values.ts';

const surroundings = { hostname: 'web', machineId: 'a'.repeat(32) };
const context = {
  ...surroundings,
  unit: 'postgresql@17-main.service',
  user: { name: 'www-data', uid: 33, home: '/var/www' },
  group: { name: 'www-data', gid: 33 },
};

/** A tree with these files; a value that begins with `->` is a link. */
async function treeOf(
  files: Readonly<Record<string, string>>,
): Promise<Tree & { directory: string }> {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-unit-'));
  await chmod(directory, 0o755);
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(join(directory, path)), { recursive: true });
    if (text.startsWith('->')) await symlink(text.slice(2), join(directory, path));
    else await writeFile(join(directory, path), text);
  }
  return Object.assign(Tree.open(directory), { directory });
}

test('time spans are what systemd-analyze makes of them', async (t) => {
  const spans = [
    '90',
    '5min 20s',
    '1h30m',
    '2.5s',
    '300ms',
    '1d',
    '1w 3h',
    '55s500ms',
    '1y 12month',
    'infinity',
  ];
  for (const span of spans) {
    const { stdout } = await execa('systemd-analyze', ['timespan', span]);
    const microseconds = /μs: (\d+|infinity)/.exec(stdout)?.[1];
    const expected =
      microseconds === 'infinity' || stdout.includes('18446744073709551615')
        ? Number.POSITIVE_INFINITY
        : Number(microseconds) / 1000;
    t.is(parseTimeSpan(span), expected, span);
  }
  for (const span of ['', 'soon', '5 parsecs', '-3']) t.is(parseTimeSpan(span), undefined, span);
});

test('names are unescaped as by systemd-escape', async (t) => {
  for (const escaped of ['17-main', 'a\\x2db-c', 'plain', '-a', '\\x2e\\x2fb']) {
    const { stdout } = await execa('systemd-escape', ['--unescape', '--', escaped]);
    t.is(unescapeUnitName(escaped), stdout);
  }
  t.deepEqual(unitNameParts('a@b@c.service'), { prefix: 'a', instance: 'b@c', suffix: 'service' });
});

test('every setting that systemd knows is in these lists, and no other', async (t) => {
  // systemd itself says which names it does not know, in the section where each belongs.
  const inUnit =
    /^(?:Description|Documentation|SourcePath|DefaultDep|Requires|Wants|Wanted|After|Before|BindsTo|Requisite|PartOf|Conflicts|Propagates|Reload(?:Prop)|On(?:Fail|Succ)|JoinsNamespace|CollectMode|RefuseManual|IgnoreOn|StopWhen|StartLimit|Condition|Assert|Failure|Success(?:Action)|Reboot|JobTimeout)/;
  const inInstall = /^(?:WantedBy|RequiredBy|Alias|Also|DefaultInstance|UpheldBy)$/;
  const all = [...new Set([...HONOURED, ...GIVEN, ...UNSUPPORTED])].filter(
    (k) => !inInstall.test(k),
  );
  const unit = all.filter((key) => inUnit.test(key) && key !== 'WantsMountsFor');
  const service = all.filter((key) => !inUnit.test(key));
  const directory = await mkdtemp(join(tmpdir(), 'kiln-keys-'));
  try {
    const path = join(directory, 'keys.service');
    const lines = [
      '[Unit]',
      ...unit.map((k) => `${k}=`),
      '[Service]',
      ...service.map((k) => `${k}=${k === 'DynamicUser' ? 'no' : ''}`),
    ];
    await writeFile(
      path,
      [...lines, 'ExecStart=', 'ExecStart=/bin/true', 'Kilny=1', ''].join('\n'),
    );
    const { stderr } = await execa('systemd-analyze', ['verify', '--man=no', path], {
      reject: false,
    });
    const unknown = [...stderr.matchAll(/Unknown key(?: name)? '(\w+)'/g)].map((match) => match[1]);
    t.deepEqual(unknown, ['Kilny'], stderr);
    t.false(stderr.includes('fatal'), stderr);
  } finally {
    await rm(directory, { recursive: true });
  }
});

test('command lines are split as in systemd.service(5): quotes, escapes, prefixes, specifiers, variables', (t) => {
  const run = (line: string, env: Record<string, string> = {}) =>
    parseExecLine(line, context)?.map((command) => commandArguments(command, env));
  t.deepEqual(run('/bin/echo "a b" \'c "d"\' e\\x20f %i %I 100%%'), [
    ['/bin/echo', 'a b', 'c "d"', 'e f', '17-main', '17/main', '100%'],
  ]);
  t.deepEqual(run('/bin/a one ; /bin/b two \\; three'), [
    ['/bin/a', 'one'],
    ['/bin/b', 'two', ';', 'three'],
  ]);
  // The examples of the manual page.
  const env = { ONE: 'one', TWO: 'two two' };
  t.deepEqual(run('/bin/echo $ONE $TWO $'.concat('{TWO}'), env), [
    ['/bin/echo', 'one', 'two', 'two', 'two two'],
  ]);
  t.deepEqual(
    run('/bin/echo $'.concat('{ONE} x$', '{TWO}y'), { ONE: "'one'", TWO: "'two two' too" }),
    [['/bin/echo', "'one'", "x'two two' tooy"]],
  );
  t.deepEqual(run('/bin/echo $$ONE $EMPTY end', {}), [['/bin/echo', '$ONE', 'end']]);
  t.deepEqual(run(':/bin/echo $ONE', env), [['/bin/echo', '$ONE']]);
  const [command] = parseExecLine('-+/bin/false x', context) ?? [];
  t.like(command, { path: '/bin/false', ignoreFailure: true, privileged: true });
  t.is(parseExecLine('/bin/echo "open', context), undefined);
  // Ten thousand references to a megabyte are refused before they are ten gigabytes.
  const [greedy] = parseExecLine(`/bin/echo ${'x$'.concat('{A}y').repeat(10_000)}`, context) ?? [];
  t.throws(() => commandArguments(greedy!, { A: 'a'.repeat(2 ** 20) }), { code: 'E_UNIT' });
});

test('environment files are read as a shell would set them', async (t) => {
  const text = `# comment
; another
PLAIN=value
SPACED = no
QUOTED="a  b"   
SINGLE='a $HOME "b"'
MIXED=a"b c"'d'
ESCAPED=a\\ b
CONTINUED=one\\
two
EMPTY=
`;
  const variables = Object.fromEntries(parseEnvironmentFile(text));
  const shell = text.replace(/^SPACED.*\n/m, '').replace(/^; .*\n/m, '');
  const names = ['PLAIN', 'QUOTED', 'SINGLE', 'MIXED', 'ESCAPED', 'CONTINUED', 'EMPTY'];
  for (const name of names) {
    const { stdout } = await execa('sh', ['-c', `${shell}\nprintf %s "$${name}"`]);
    t.is(variables[name], stdout, name);
  }
  t.false('SPACED ' in variables);
});

test('fragments, templates and drop-ins are read in systemd’s order', async (t) => {
  using tree = await treeOf({
    'usr/lib/systemd/system/web@.service': `[Unit]
Description=Web %i \\
# a comment in between
  continued
[Service]
ExecStart=/bin/old
User=www-data
Environment=A=1 "B=two words"
StateDirectory=web/%i
Unheardof=1
ProtectSystem=strict
`,
    'usr/lib/systemd/system/web@.service.d/10-a.conf':
      '[Service]\nRestart=always\nRestartSec=2min\n',
    'usr/lib/systemd/system/web@.service.d/20-b.conf': '[Service]\nRestart=no\n',
    // The same name in a folder that counts more wins.
    'etc/systemd/system/web@.service.d/20-b.conf': '[Service]\nExecStart=\nExecStart=/bin/new %n\n',
    'etc/systemd/system/web@one.service.d/30-c.conf': '[Service]\nUMask=077\nLimitNOFILE=100:200\n',
    'usr/lib/systemd/system/service.d/05-all.conf': '[Service]\nKillSignal=INT\n',
    // A link to /dev/null hides those that count less.
    'etc/systemd/system/web@one.service.d/40-d.conf': '->/dev/null',
    'usr/lib/systemd/system/service.d/40-d.conf': '[Service]\nUMask=0\n',
    'etc/systemd/system/masked.service': '->/dev/null',
    'usr/lib/systemd/system/masked.service': '[Service]\nExecStart=/bin/true\n',
    'etc/passwd': 'www-data:x:33:33::/var/www:/bin/sh\n',
    'etc/group': 'www-data:x:33:\n',
  });
  try {
    const unit = loadUnit(tree, 'web@one.service', surroundings);
    t.is(unit.description, 'Web one  continued');
    t.deepEqual(
      unit.commands.start.map((command) => commandArguments(command, {})),
      [['/bin/new', 'web@one.service']],
    );
    t.is(unit.restart, 'always');
    t.is(unit.restartDelay, 120_000);
    t.is(unit.umask, 0o077);
    t.is(unit.killSignal, 'SIGINT');
    t.deepEqual(unit.limits, [{ resource: 7, soft: 100, hard: 200 }]);
    t.deepEqual(unit.environment, [
      ['A', '1'],
      ['B', 'two words'],
    ]);
    t.like(unit.directories[0], { path: '/var/lib/web/one', variable: 'STATE_DIRECTORY' });
    t.true(
      unit.warnings.some((warning) =>
        /web@\.service:\d+: unknown setting Unheardof=/.test(warning),
      ),
    );
    t.true(unit.warnings.some((warning) => warning.includes('ProtectSystem=')));
    t.throws(() => loadUnit(tree, 'masked.service', surroundings), { code: 'E_UNIT' });
    t.throws(() => loadUnit(tree, 'webb@x.service', surroundings), { code: 'E_UNIT' });
  } finally {
    await rm(tree.directory, { recursive: true });
  }
});

test('a hostile tree gets nothing of the host', async (t) => {
  using tree = await treeOf({
    'usr/lib/systemd/system/a.service': '->/etc/hostname',
    'usr/lib/systemd/system/b.service': '->../../../../../../../../etc/passwd',
    'etc/environment': '->/proc/self/environ',
  });
  try {
    t.throws(() => loadUnit(tree, 'a.service', surroundings), { code: 'E_UNIT' });
    t.throws(() => loadUnit(tree, 'b.service', surroundings), { code: 'E_UNIT' });
    t.is(tree.readText('/etc/environment'), undefined);
    await execa('mkfifo', [join(tree.directory, 'usr/lib/systemd/system/c.service')]);
    t.throws(() => loadUnit(tree, 'c.service', surroundings), { code: 'E_UNIT' });
  } finally {
    await rm(tree.directory, { recursive: true });
  }
});

test('units start in the order that After= and Before= ask for', async (t) => {
  const unit = (extra: string) => `[Unit]\n${extra}\n[Service]\nExecStart=/bin/true\n`;
  using tree = await treeOf({
    'etc/systemd/system/app.service': unit('After=db.service cache.service'),
    'etc/systemd/system/db.service': unit(''),
    'etc/systemd/system/cache.service': unit('Before=db.service'),
    'etc/systemd/system/x.service': unit('After=y.service'),
    'etc/systemd/system/y.service': unit('After=x.service'),
  });
  try {
    const load = (name: string) => loadUnit(tree, `${name}.service`, surroundings);
    t.deepEqual(
      startOrder(['app', 'db', 'cache'].map(load)).map(({ name }) => name),
      ['cache.service', 'db.service', 'app.service'],
    );
    t.throws(() => startOrder(['x', 'y'].map(load)), { code: 'E_UNIT' });
  } finally {
    await rm(tree.directory, { recursive: true });
  }
});
