/** The parameters of calls are the options: each has the row's name, and the type that its kind is in JSON. */
import test from 'ava';
import { METHODS as INTERFACE, TYPES, type Type } from '../../src/api/interface.ts';
import { FORK } from '../../src/cli/fork.ts';
import { BUILDS } from '../../src/options/build.ts';
import { flag, negation } from '../../src/options/kind.ts';
import * as numbers from '../../src/options/numbers.ts';
import * as places from '../../src/options/places.ts';
import type { Row, Rows } from '../../src/options/row.ts';
import { EXEC, LIMITS, SANDBOX } from '../../src/options/sandbox.ts';

const JSON_TYPES = new Map<unknown, string>([
  [flag, 'bool'],
  [negation, 'bool'],
  [numbers.cpus, 'float'],
  ...[numbers.size, numbers.memory, numbers.rate, numbers.time, numbers.count].map(
    (kind) => [kind, 'int'] as const,
  ),
  [places.bind, 'Bind'],
  [places.tmpfs, 'Tmpfs'],
  [places.guestBind, 'GuestBind'],
  [places.copyIn, 'Copy'],
  [places.secret, 'Secret'],
  // One word has several of them.
  [BUILDS.networkPhases.kind, '[]string'],
]);

function typeOf({ kind, many }: Row): string {
  if (kind.pairs) return '[string]string';
  const type = JSON_TYPES.get(kind) ?? 'string';
  return many ? `[]${type}` : type;
}

function text(type: Type): string {
  if (type.kind === 'optional') return text(type.of);
  if (type.kind === 'array') return `[]${text(type.of)}`;
  if (type.kind === 'map') return `[string]${text(type.of)}`;
  return type.kind === 'named' ? type.name : type.kind;
}

function parameters(method: string): Record<string, string> {
  const { fields } = INTERFACE[method]?.input ?? { fields: [] };
  const surroundings = TYPES.Surroundings;
  const all = fields.flatMap((field) =>
    field.name === 'surroundings' && surroundings?.kind === 'struct' ? surroundings.fields : field,
  );
  return Object.fromEntries(all.map(({ name, type }) => [name, text(type)]));
}

/** What a call names beside options: what is run, its input, and where it runs. */
const OWN = ['argv', 'input', 'interactive', 'terminal', 'sandbox', 'sources', 'from'];

/** What only a person or a shell has a use for, or a call says otherwise. */
const WORDS_ONLY = [
  ...['spec', 'chain', 'farm', 'schema', 'resume', 'detach', 'name'],
  ...['ci', 'samples', 'quiet', 'json', 'vary', 'rpmbuildOptions', 'shortCircuit'],
  // A recipe in a call has no binds of the caller's.
  ...['binds', 'allowHostWrite', 'protection'],
];

const METHODS: Readonly<Record<string, Rows>> = {
  Run: SANDBOX,
  Execute: {
    env: EXEC.env,
    workdir: EXEC.workdir,
    timeout: LIMITS.timeout,
    stallTimeout: LIMITS.stallTimeout,
  },
  Fork: Object.fromEntries(Object.entries(FORK).filter(([name]) => !WORDS_ONLY.includes(name))),
  Build: Object.fromEntries(Object.entries(BUILDS).filter(([name]) => !WORDS_ONLY.includes(name))),
};

for (const [method, rows] of Object.entries(METHODS)) {
  test(`the parameters of ${method} are the options`, (t) => {
    const given = Object.entries(parameters(method)).filter(([name]) => !OWN.includes(name));
    const wanted = Object.entries(rows).map(([name, row]) => [name, typeOf(row)]);
    t.true(wanted.length > 3);
    t.deepEqual(Object.fromEntries(given), Object.fromEntries(wanted));
  });
}

test('every parameter of OpenSandbox is a parameter of Run', (t) => {
  const run = parameters('Run');
  const open = Object.entries(parameters('OpenSandbox'));
  t.true(open.length > 15);
  for (const [name, type] of open) t.is(run[name], type, name);
});
