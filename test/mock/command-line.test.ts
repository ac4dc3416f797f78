import { spawnSync } from 'node:child_process';
import test from 'ava';
import { type CommandLine, parseCommandLine } from '../../src/cli/mock/command-line.ts';
import { KilnError } from '../../src/errors.ts';
import { shellWord, shellWords } from '../../src/shell-words.ts';

/** What a command line was understood as: mode, arguments, options with their last values. */
function read(...argv: string[]) {
  const line: CommandLine = parseCommandLine(argv);
  const options = Object.fromEntries(line.given.map(({ name, value }) => [name, value ?? true]));
  return { mode: line.mode, args: line.args, ...options };
}

/** As Koji's builder calls it (kojid, BuildRoot.mock). */
test('Koji’s command lines are understood', (t) => {
  t.deepEqual(read('-r', 'koji/f44-build-1-2', '--init'), {
    mode: 'init',
    args: [],
    root: 'koji/f44-build-1-2',
    init: true,
  });
  t.like(
    read(
      '-r',
      'koji/x',
      '--no-clean',
      '--buildsrpm',
      '--spec',
      '/a.spec',
      '--sources',
      '/s',
      '--target',
      'noarch',
    ),
    {
      mode: 'buildsrpm',
      spec: '/a.spec',
      sources: '/s',
      target: 'noarch',
      'no-clean': true,
    },
  );
  t.like(read('-r', 'koji/x', '--no-clean', '--target', 'x86_64', '--rebuild', '/a.src.rpm'), {
    mode: 'rebuild',
    args: ['/a.src.rpm'],
    target: 'x86_64',
  });
});

/** As Copr's copr-rpmbuild calls it. */
test('Copr’s command lines are understood', (t) => {
  t.like(
    read(
      '--buildsrpm',
      '--spec',
      'a.spec',
      '--sources',
      's',
      '--resultdir',
      'r',
      '--uniqueext',
      '123.4',
      '-r',
      'r/configs/child.cfg',
      '--with',
      'x',
      '--without',
      'y',
    ),
    { mode: 'buildsrpm', root: 'r/configs/child.cfg', uniqueext: '123.4', with: 'x', without: 'y' },
  );
  t.like(read('--rebuild', 'a.src.rpm', '--resultdir', 'r', '--uniqueext', '1', '-r', 'c.cfg'), {
    mode: 'rebuild',
    args: ['a.src.rpm'],
    resultdir: 'r',
  });
  const scrub = parseCommandLine([
    '-r',
    'c.cfg',
    '--scrub',
    'bootstrap',
    '--scrub',
    'chroot',
    '--scrub',
    'root-cache',
    '--quiet',
  ]);
  t.is(scrub.mode, 'clean');
  t.deepEqual(scrub.values('scrub'), ['bootstrap', 'chroot', 'root-cache']);
});

/** As packit, fedpkg and rpkg call it. */
test('the command lines of packit and fedpkg are understood', (t) => {
  t.like(read('--root', 'fedora-rawhide-x86_64', '--resultdir', '/r', '--rebuild', 'a.src.rpm'), {
    mode: 'rebuild',
    root: 'fedora-rawhide-x86_64',
    args: ['a.src.rpm'],
  });
  t.like(read('-r', 'x', '--resultdir=/r', '--enablerepo=a', 'a.src.rpm'), {
    mode: 'rebuild',
    resultdir: '/r',
    enablerepo: 'a',
  });
});

test('options and arguments are read in any order, abbreviated, glued, and with values like -x', (t) => {
  t.deepEqual(read('a.src.rpm', '-Dfoo bar', 'b.src.rpm', '--result', 'r', '-vnN'), {
    mode: 'rebuild',
    args: ['a.src.rpm', 'b.src.rpm'],
    define: 'foo bar',
    resultdir: 'r',
    verbose: true,
    'no-clean': true,
    'no-cleanup-after': true,
  });
  t.like(read('--rpmbuild-opts', '--noclean --nodeps', 'x'), {
    'rpmbuild-opts': '--noclean --nodeps',
    args: ['x'],
  });
  // A value is never an abbreviation, nor is anything after --.
  t.like(read('-r', 'x', '--chroot', '--', 'ls', '--res', '-r'), {
    mode: 'chroot',
    args: ['ls', '--res', '-r'],
    root: 'x',
  });
  t.like(read('--rpmbuild-opts', '--res'), { 'rpmbuild-opts': '--res' });
  t.deepEqual(parseCommandLine(['-D', 'a 1', '--define=b 2']).values('define'), ['a 1', 'b 2']);
  // Of several modes the last one counts; very old callers write it without dashes.
  t.is(read('--rebuild', '--shell').mode, 'shell');
  t.like(read('-r', 'x', 'shell', 'echo'), { mode: 'shell', args: ['echo'] });
});

const WRONG: readonly (readonly [string[], RegExp, RegExp?])[] = [
  [['--rebild'], /no option --rebild/, /--rebuild/],
  [['--re'], /may be --rebuild/],
  [['-D'], /needs a value/],
  [['--quiet=3'], /takes no value/],
  [['--scrub=everything'], /it takes all, chroot/],
  [['--short-circuit', 'check'], /it takes prep, build/],
  [['--rootdir', 'd'], /nothing that kiln does/, /KILN_STATE/],
];

for (const [argv, message, hint] of WRONG) {
  test(`a mistake: ${argv.join(' ')}`, (t) => {
    const error = t.throws(() => parseCommandLine(argv), { instanceOf: KilnError });
    t.is(error?.code, 'E_MOCK_USAGE');
    t.regex(error?.message ?? '', message);
    t.regex(error?.hint ?? '', hint ?? /./);
  });
}

test('--rpmbuild-opts is split as by a shell', (t) => {
  t.deepEqual(shellWords(`--define 'a b' "c \\"d\\" \\x" e\\ f ''`), [
    '--define',
    'a b',
    'c "d" \\x',
    'e f',
    '',
  ]);
  t.deepEqual(shellWords('  a\n\tb  '), ['a', 'b']);
  t.throws(() => shellWords("a 'b"), { message: /without its end/ });
  // As a real shell takes them, there and back.
  const words = [
    '',
    'a',
    "it's",
    '$HOME `id` "x" \\',
    'a\nb',
    '-n',
    '~',
    '*',
    'a=b',
    '%',
    '!x',
    'ö',
  ];
  const line = words.map(shellWord).join(' ');
  t.deepEqual(shellWords(line), words);
  const { stdout } = spawnSync('sh', ['-c', `printf '%s\\0' ${line}`], { encoding: 'utf8' });
  t.deepEqual(stdout.split('\0').slice(0, -1), words);
});
