import test from 'ava';
import { matchText } from '../../src/artifacts/byte-string.ts';
import { compilePattern } from '../../src/artifacts/pattern.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { bashIn, sandboxTree } from './sandbox-tree.ts';

/** Patterns that bash and kiln must agree on, whatever else they can do. */
const PATTERNS = [
  '*',
  '**',
  '*/*',
  '**/x',
  '**/*.o',
  'a/**',
  'a/**/x',
  'a/b/*',
  '?',
  '??',
  '[ab]',
  '[!ab]',
  '[a-c]*',
  '{a,b}',
  '{a,b}/x',
  'a/{b,c}/*.{o,c}',
  '{a/b,c}/x.o',
  '.*',
  '.h/*',
  '**/.h/*',
  'a/*/',
  '*/b',
  '**/b/**',
  'a/./x',
  'a//x',
  './a/*',
  'ü*',
  '?.ü',
  'sp ace/*',
  '*.o',
  '*.c',
  'no*',
  '**/**/x',
  'st\\*r',
  'st[*]r',
  '[[:digit:]]*',
  'a/b/x.o',
  '\\{br\\}',
  '{1..3}',
  '**/?',
];

test('patterns match what bash matches', async (t) => {
  const tree = sandboxTree(t);
  tree.bash(`
    mkdir -p a/b/c a/c b/b .h/b 'sp ace' 1 2
    touch x a/x a/b/x.o a/b/x.c a/c/y.o a/b/c/x b/x b/b/x .h/x .h/b/x .dot a/.dot 'sp ace/f' ü u.ü
    touch 'st*r' star '{br}' 1/x 2/x`);
  for (const pattern of PATTERNS) {
    // In bash `a/**` is `a/` too; here it is what is inside.
    const inside = pattern.endsWith('**') ? '*[!/]' : '*';
    const expected = tree.bash(`
      LC_ALL=C.UTF-8; shopt -s globstar nullglob
      for match in ${pattern.replace(' ', '\\ ')}; do
        [[ $match == ${inside} && -e $match ]] && find "$match" ! -type d -exec realpath -s --relative-to=. -z {} +
      done | LC_ALL=C sort -zu`);
    const { artifacts } = await tree.collect([pattern], {
      destination: `${tree.out}/${Math.random()}`,
    });
    const got = artifacts.filter((a) => a.type === 'file').map((a) => `${a.source.slice(1)}\0`);
    const bytes = got.map((name) => Buffer.from(name).toString('latin1'));
    t.is(bytes.sort().join(''), expected, pattern);
  }
});

test('a match keeps its path from the first wildcard on', async (t) => {
  const tree = sandboxTree(t);
  tree.bash(
    'mkdir -p w/out/x86 w/out/.hidden; touch w/out/a.rpm w/out/x86/b.rpm w/out/.hidden/c w/f',
  );
  const cases: [string, string][] = [
    ['out/*.rpm', 'a.rpm'],
    ['out/**/*.rpm', 'a.rpm x86 x86/b.rpm'],
    ['out/*/*.rpm', 'x86 x86/b.rpm'],
    ['out/x86/b.rpm', 'b.rpm'],
    ['out', 'out out/.hidden out/.hidden/c out/a.rpm out/x86 out/x86/b.rpm'],
    ['/w/out/', 'out out/.hidden out/.hidden/c out/a.rpm out/x86 out/x86/b.rpm'],
    ['out/.', '.hidden .hidden/c a.rpm x86 x86/b.rpm'],
    ['out/**', 'a.rpm x86 x86/b.rpm'],
    ['o*', 'out out/.hidden out/.hidden/c out/a.rpm out/x86 out/x86/b.rpm'],
    ['{out,f}/a.rpm', 'out out/a.rpm'],
    ['../w/f', 'f'],
    ['f', 'f'],
    ['/w/f', 'f'],
  ];
  for (const [index, [pattern, expected]] of cases.entries()) {
    const more = { workdir: '/w', destination: `${tree.out}/${index}` };
    const { artifacts } = await tree.collect([pattern], more);
    t.is(artifacts.map((a) => a.path).join(' '), expected, pattern);
    const onDisk = bashIn(`${tree.out}/${index}`, `find . -mindepth 1 -printf '%P\\n' | sort`);
    t.is(
      onDisk,
      artifacts
        .map((a) => `${a.path}\n`)
        .sort()
        .join(''),
      pattern,
    );
  }
});

test('a name that is not UTF-8 is matched byte by byte', async (t) => {
  const tree = sandboxTree(t);
  tree.bash(`touch $'\\xff\\xfe' $'caf\\xe9' ü $'new\\nline'`);
  const names = async (pattern: string) => {
    const { artifacts } = await tree.collect([pattern]);
    return artifacts.map((a) => a.pathBytes ?? a.path);
  };
  const base64 = (name: string) => Buffer.from(name, 'latin1').toString('base64');
  t.deepEqual(await names('??'), [base64('\xff\xfe')]);
  t.deepEqual(await names('?'), ['ü']);
  t.deepEqual(await names('caf?'), [base64('caf\xe9')]);
  t.deepEqual(await names('new*line'), ['new\nline']);
  t.is(matchText('\xff'), '\xff');
  t.is(matchText('\xc3\xbc'), 'ü');
});

test('invalid patterns are refused with the reason', (t) => {
  for (const pattern of ['', 'a/..', '*/../x', 'a\0b', '{a,..}']) {
    t.throws(() => compilePattern(pattern, '/'), { code: 'E_ARTIFACT_PATTERN' }, pattern);
  }
  t.throws(() => compilePattern('a'.repeat(70_000), '/'), { code: 'E_ARTIFACT_PATTERN' });
  // Braces multiply without bound in bash; here a pattern stays small.
  t.true(compilePattern('{a,b}'.repeat(40), '/').start.length <= 1000);
});

test('many stars do not take exponential time', (t) => {
  const pattern = compilePattern(`${'*a'.repeat(60)}b`, '/');
  const started = performance.now();
  const segment = pattern.start[0]?.segments[0];
  t.true(typeof segment === 'object' && !segment.test('a'.repeat(250)));
  t.true(performance.now() - started < 1000 * PATIENCE);
});
