import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fc, testProp } from '@fast-check/ava';
import test from 'ava';
import { apiPages } from '../../scripts/write/api-reference.ts';
import { interfaceText, parseInterface, type Type } from '../../scripts/write/varlink.ts';
import { checkParameters, InvalidParameter } from '../../src/api/interface.ts';
import { INTERFACE_VERSION } from '../../src/api/io-kiln.ts';

const of = parseInterface(interfaceText());

test('the reference page says what the comments of the interface say', (t) => {
  for (const [path, text] of apiPages(interfaceText())) {
    t.is(readFileSync(path, 'utf8'), text, 'run: npm run write-wire');
  }
});

/** A type as the language of interfaces writes it. */
function text(type: Type): string {
  switch (type.kind) {
    case 'optional':
      return `?${text(type.of)}`;
    case 'array':
      return `[]${text(type.of)}`;
    case 'map':
      return `[string]${text(type.of)}`;
    case 'enum':
      return `(${type.values.join(', ')})`;
    case 'struct':
      return `(${type.fields.map((field) => `${field.name}: ${text(field.type)}`).join(', ')})`;
    case 'named':
      return type.name;
    default:
      return type.kind;
  }
}

test('no change of the interface breaks programs that use it', (t) => {
  const lines = [
    `version ${INTERFACE_VERSION}`,
    ...[...of.types].map(([name, { type }]) => `type ${name} ${text(type)}`),
    ...[...of.methods].map(
      ([name, { input, output }]) => `method ${name}${text(input)} -> ${text(output)}`,
    ),
    ...[...of.errors].map(([name, { type }]) => `error ${name} ${text(type)}`),
  ];
  const golden = readFileSync(join(import.meta.dirname, 'interface.golden'), 'utf8');
  t.is(
    `${lines.join('\n')}\n`,
    golden,
    'New methods and optional fields are fine: write them into test/api/interface.golden. Whatever else is changed needs a new version, and the golden file has it.',
  );
});

test('an invalid interface is refused with the line of the mistake', (t) => {
  const whole = interfaceText();
  t.throws(() => parseInterface('interface a.b\n\ntype X (a: int'), { message: /^line 3 / });
  for (const bad of [
    '',
    'type X ()',
    'interface a.b type X (a: int, b)',
    'interface a.b method M()',
    'interface a.b type X (a) type X (b)',
    'interface a.b error E (a, b)',
    'interface a.b !',
  ]) {
    t.throws(() => parseInterface(bad), { instanceOf: SyntaxError }, bad);
  }
  t.notThrows(() => parseInterface(whole));
});

test('the names of types are those of the interface', (t) => {
  const named = (type: Type): string[] => {
    if (type.kind === 'named') return [type.name];
    if (type.kind === 'struct') return type.fields.flatMap((field) => named(field.type));
    return 'of' in type ? named(type.of) : [];
  };
  const all = [
    ...[...of.types.values(), ...of.errors.values()].map(({ type }) => type),
    ...[...of.methods.values()].flatMap(({ input, output }) => [input, output]),
  ];
  for (const name of all.flatMap(named)) t.true(of.types.has(name), name);
});

test('parameters are checked exactly as they are described', (t) => {
  const good = {
    argv: ['a'],
    env: { A: 'b' },
    workdir: null,
    surroundings: { cpus: 0.5, secrets: [] },
  };
  const { workdir: _, ...rest } = good;
  t.deepEqual(checkParameters('Run', good), rest);
  const bad: readonly (readonly [unknown, string])[] = [
    [{}, 'argv'],
    [[], ''],
    [{ argv: ['a', null] }, 'argv'],
    [{ argv: ['a\0'] }, 'argv'],
    [{ argv: ['a'], env: { A: 1 } }, 'env.A'],
    [{ argv: ['a'], constructor: 1 }, 'constructor'],
    [JSON.parse('{"argv":["a"],"__proto__":{}}'), '__proto__'],
    [{ argv: ['a'], terminal: { rows: 1 } }, 'terminal.columns'],
    [
      { argv: ['a'], surroundings: { binds: [{ source: 'a', target: 'b', relabel: 'x' }] } },
      'surroundings.binds.relabel',
    ],
  ];
  for (const [value, parameter] of bad) {
    const error = t.throws(() => checkParameters('Run', value), { instanceOf: InvalidParameter });
    t.is(error.parameter, parameter);
  }
});

testProp('any JSON is parameters or an InvalidParameter error', [fc.jsonValue()], (t, value) => {
  for (const method of of.methods.keys()) {
    try {
      checkParameters(method, value);
      t.pass();
    } catch (error) {
      t.true(error instanceof InvalidParameter);
    }
  }
});
