/** Random configurations: kiln and mock's way of evaluating make the same of them. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import fc from 'fast-check';
import { KilnError } from '../../src/errors.ts';
import { loadConfigs } from '../../src/jobs/mock/config/load.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { differences, kilnsOpinion, secondOpinion } from './second-opinion.ts';

const COUNT = Number(process.env.KILN_CONFIGS ?? (process.env.KILN_TEST_LONG === '1' ? 1000 : 100));
const SEED = Number(process.env.KILN_SEED ?? 32);

const name = fc.constantFrom(
  'a',
  'b',
  'c',
  'releasever',
  'target_arch',
  'repo_arch',
  'root',
  'none',
);
const pick = (...texts: readonly string[]) => fc.constantFrom(...texts);

/** A text of Python's. */
const literal = fc.oneof(
  pick(
    "'13'",
    "'x86_64'",
    "''",
    '"it\'s"',
    "r'\\d\\n'",
    "'\\t\\u00e9\\\\'",
    '"""\n a\n"""',
    "f'{1 + 1}{{}}'",
  ),
  fc.string({ unit: 'grapheme-ascii', maxLength: 8 }).map((text) => JSON.stringify(text)),
);
const number = pick('0', '1', '-7', '13', '2.5', '1e3', '10 ** 20', 'True', 'None', '-0.0');

const expression: fc.Arbitrary<string> = fc.letrec<{ it: string }>((tie) => ({
  it: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    literal,
    number,
    name.map((it) => `config_opts.get('${it}', 'missing')`),
    fc.array(tie('it'), { maxLength: 3 }).map((items) => `[${items.join(', ')}]`),
    fc
      .array(tie('it'), { maxLength: 2 })
      .map((items) => `(${items.map((it) => `${it},`).join(' ')})`),
    fc.tuple(literal, tie('it')).map(([key, value]) => `{${key}: ${value}}`),
    fc
      .tuple(
        tie('it'),
        pick('+', '%', '*', '==', '!=', '<', 'in', 'and', 'or', '//', 'is not'),
        tie('it'),
      )
      .map((parts) => `(${parts.join(' ')})`),
    fc.tuple(tie('it'), tie('it'), tie('it')).map(([a, b, c]) => `(${a} if ${b} else ${c})`),
    tie('it').map((it) => `str(${it})`),
    tie('it').map((it) => `repr(${it})[1:-1]`),
    fc.tuple(literal, tie('it')).map(([a, b]) => `${a}.join(str(x) for x in [${b}])`),
    tie('it').map((it) => `len(str(${it}))`),
    tie('it').map((it) => `not ${it}`),
    tie('it').map((it) => `sorted(str(${it}))[:3]`),
  ),
})).it;

/** A part of a template. */
const value = fc.oneof(
  name,
  pick(
    "'13'",
    '13',
    '-7 % 3',
    '7 / 2',
    '[1, 2]',
    '[1] == [1]',
    'none',
    'true',
    'undefined_name',
    "'a' ~ 1",
  ),
  pick(
    'releasever == 13',
    "releasever == '13'",
    'undefined_name == None',
    'a is defined',
    "'x' in root",
  ),
  pick(
    '(1, 2)',
    "{'k': none}",
    'range(3)',
    'root|upper|replace("X", "y")',
    'a|default("d")',
    'b|int(-1) + 1',
  ),
  pick(
    'a|length',
    'a|list',
    'c|string|title',
    "[3,1]|sort|join('-')",
    '"%s:%r" % (a, b)',
    'a|tojson',
    '1.0',
  ),
  pick(
    'func is callable',
    'macros',
    'a.b.c',
    'a[0]',
    'root[:2]',
    'root.split("-")|last',
    'loop',
    '_aliases|length',
    'nothing()',
  ),
);
const template: fc.Arbitrary<string> = fc.letrec<{ it: string }>((tie) => ({
  it: fc.oneof(
    { depthSize: 'small' },
    pick('text ', '\n', ' ', '{', '%}', "it's", '\\d', 'é'),
    value.map((it) => `{{ ${it} }}`),
    value.map((it) => `{{- ${it} -}}`),
    fc
      .tuple(value, tie('it'), tie('it'))
      .map(([a, b, c]) => `{% if ${a} %}${b}{% else %}${c}{% endif %}`),
    fc
      .tuple(pick('[1, 2]', 'range(2)', 'a', 'root|list', "{'k': 1}"), tie('it'))
      .map(([a, b]) => `{% for x in ${a} %}${b}{{ x }}{{ loop.index }}{%- endfor %}`),
    fc.tuple(value, tie('it')).map(([a, b]) => `{% set v = ${a} %}${b}{{ v }}`),
    fc
      .tuple(tie('it'), value)
      .map(([a, b]) => `{% macro m(x) %}${a}{{ x }}{% endmacro %}{{ m(${b}) }}`),
    fc.tuple(tie('it'), tie('it')).map((parts) => parts.join('')),
    pick(
      '{# note #}',
      '{% raw %}{{ a }}{% endraw %}',
      "{{ '{{ a }' ~ '}' }}",
      '{% filter upper %}q{% endfilter %}',
    ),
  ),
})).it;

const set = fc.tuple(name, expression).map(([key, it]) => `config_opts['${key}'] = ${it}`);
const setTemplate = fc
  .tuple(pick('a', 'b', 'c', 'dnf.conf', 'yum.conf', 'description'), template)
  .map(([key, it]) => `config_opts['${key}'] = ${JSON.stringify(it)}`);
const simple = fc.oneof(
  set,
  setTemplate,
  fc.tuple(name, expression).map(([key, it]) => `config_opts['${key}'] += ${it}`),
  name.map((key) => `del config_opts['${key}']`),
  fc.tuple(name, expression).map(([key, it]) => `config_opts.setdefault('${key}', ${it})`),
  expression.map((it) => `config_opts['macros']['%m'] = str(${it}) or 'm'`),
  expression.map((it) => `config_opts['plugin_conf'].setdefault('x_opts', {})['k'] = ${it}`),
  fc.tuple(pick('u', 'v'), expression).map(([key, it]) => `${key} = ${it}`),
  pick(
    'config_opts["a"] = u',
    'config_opts["b"] = [v, u]',
    'pass',
    "include('inner.tpl')",
    'print(1)',
  ),
  pick(
    "config_opts['list'] = ['a', '{{ root }}']",
    "config_opts['list'].append(config_opts.get('a'))",
  ),
);
const indented = (text: string) => text.replace(/^(?!"""|\s)/gm, '  ');
const statement = fc.oneof(
  { weight: 6, arbitrary: simple },
  {
    weight: 1,
    arbitrary: fc
      .tuple(expression, simple, simple)
      .map(([test, a, b]) => `if ${test}:\n${indented(a)}\nelse:\n${indented(b)}`),
  },
  {
    weight: 1,
    arbitrary: fc
      .tuple(pick("['x', 1]", "'ab'", 'range(2)', "config_opts['macros']"), simple)
      .map(([over, it]) => `for u in ${over}:\n${indented(it)}`),
  },
  {
    weight: 1,
    arbitrary: simple.map(
      (it) => `try:\n${indented(it)}\nexcept Exception as error:\n  config_opts['c'] = str(error)`,
    ),
  },
  {
    weight: 1,
    arbitrary: expression.map(
      (it) =>
        `def f(u):\n  return ${it.replaceAll('config_opts.get', 'dict().get')}\nconfig_opts['a'] = f(1)`,
    ),
  },
);
const config = fc
  .array(fc.oneof(statement, { weight: 5, arbitrary: simple }), { minLength: 1, maxLength: 8 })
  .map((statements) => `config_opts['root'] = 'x-{{ releasever }}'\n${statements.join('\n')}\n`);

test(`${COUNT} random configurations mean what mock makes of them`, async (t) => {
  t.timeout(600_000 * PATIENCE);
  const directory = await mkdtemp(join(tmpdir(), 'kiln-mock-campaign-'));
  t.teardown(() => rm(directory, { recursive: true }));
  await mkdir(directory, { recursive: true });
  await writeFile(join(directory, 'inner.tpl'), "config_opts['c'] = 'in\\\\ner'\nw = '\\t'\n");
  const texts = fc.sample(config, { numRuns: COUNT, seed: SEED });
  const files = texts.map((_, at) => join(directory, `${String(at).padStart(5, '0')}.cfg`));
  for (const [at, text] of texts.entries()) {
    await writeFile(files[at]!, at % 7 === 0 ? text.replaceAll('\n', '\r\n') : text);
  }
  const theirs = Object.values(await secondOpinion(directory));
  const place = { paths: { root: '/var/lib/kiln-test' }, directory, arch: 'x86_64' };
  let at = 0;
  let good = 0;
  for await (const ours of loadConfigs(files, place)) {
    const found = differences(ours, theirs[at]!);
    t.deepEqual(found, [], texts[at]!);
    if (!(ours instanceof KilnError)) good += 1;
    at += 1;
  }
  t.is(at, COUNT);
  t.log(`${good} of ${COUNT} are good configurations`);
  t.true(good > COUNT / 4, `only ${good} of ${COUNT} are good configurations`);
});

const VALUES = [
  "'a <b>&eacute;</b>\\n13 https://x.org'",
  "[3, 'two', none, [1], {'k': 'v'}]",
  '[2]',
  "{'b': 1, 'a': [none]}",
  '-7',
  '2.5',
  'nothing',
];
const ITERATORS = /^(?:batch|items|map|reject|rejectattr|reverse|select|selectattr|slice|unique)$/;
const NAMES =
  'from jinja2.defaults import *; print(*DEFAULT_FILTERS); print(*DEFAULT_TESTS); print(*DEFAULT_NAMESPACE)';

test('every filter, test and function of Jinja means what it means to mock', async (t) => {
  t.timeout(60_000 * PATIENCE);
  const { stdout } = await execa('/usr/bin/python3', ['-c', NAMES]);
  const [filters = [], tests = [], functions = []] = stdout
    .split('\n')
    .map((line) => line.split(' '));
  t.true(filters.length > 50 && tests.length > 30 && functions.length > 5, stdout);
  const templates = VALUES.flatMap((it) => [
    // Of one item only: another one is as good. An iterator shows its address.
    ...filters.map(
      (name) => `${name === 'random' ? '[1]' : it}|${name}${ITERATORS.test(name) ? '|list' : ''}`,
    ),
    ...filters.map((name) => `${it}|${name}(3)|length`),
    ...filters.map((name) => `${it}|map('${name}')|list|length`),
    ...tests.flatMap((name) => [`${it} is ${name}`, `${it} is ${name}(3)`]),
    ...functions.map((name) => `${name}(${it})|string|length > 1`),
  ]);
  const directory = await mkdtemp(join(tmpdir(), 'kiln-mock-jinja-'));
  t.teardown(() => rm(directory, { recursive: true }));
  const set = (text: string, at: number) =>
    `config_opts['t${at}'] = ${JSON.stringify(`{{ ${text} }}`)}\n`;
  await writeFile(
    join(directory, 'x.cfg'),
    `config_opts['root'] = 'x'\n${templates.map(set).join('')}`,
  );
  const theirs = (await secondOpinion(directory)).x!;
  const ours = await kilnsOpinion(directory, 'x');
  const found = differences(ours, theirs);
  t.deepEqual(
    found.map((it) => `${templates[Number(/^t(\d+)/.exec(it)?.[1])]} ${it}`),
    [],
  );
  const good = templates.filter((_, at) => theirs[`t${at}`]?.[1] !== null);
  t.log(`${good.length} of ${templates.length} have an answer`);
  t.true(good.length > templates.length / 3, String(good.length));
});
