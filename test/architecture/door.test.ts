import { readdir, readFile } from 'node:fs/promises';
import { dirname, join, relative, resolve } from 'node:path';
import test from 'ava';
import { ownPath } from '../../src/host/files/held.ts';
import { planSandbox, type SandboxJob } from '../../src/sandbox/door/plan.ts';

const source = join(import.meta.dirname, '../../src');

/** What enters a sandbox: the module, its exports, and the modules that may take them as values; none if only tests do. */
const LOW_LEVEL: readonly {
  readonly module: string;
  readonly names: readonly string[];
  readonly allowed: readonly string[];
}[] = [
  {
    module: 'sandbox/open.ts',
    names: ['openSandbox', 'reopenSandbox'],
    allowed: ['sandbox/door/planned-sandbox.ts'],
  },
  { module: 'sandbox/policy/policy.ts', names: ['commandPolicy'], allowed: [] },
  { module: 'sandbox/open.ts', names: ['fillSandbox'], allowed: [] },
  {
    module: 'sandbox/policy/policy.ts',
    names: ['policiesOf'],
    allowed: ['sandbox/door/planned-sandbox.ts'],
  },
  {
    module: 'sandbox/command/start-command.ts',
    names: ['startCommand'],
    allowed: ['sandbox/door/planned-sandbox.ts', 'sandbox/door/tree.ts'],
  },
  {
    module: 'sandbox/command/process.ts',
    names: ['SandboxProcess'],
    allowed: ['sandbox/command/start-command.ts', 'sandbox/door/visit.ts'],
  },
  {
    module: 'sandbox/wire/codec.ts',
    names: ['encodeExec'],
    allowed: ['sandbox/command/start-command.ts'],
  },
  {
    module: 'sandbox/wire/codec.ts',
    names: ['encodeRequest'],
    allowed: [
      'sandbox/command/control.ts',
      'sandbox/command/start-command.ts',
      'sandbox/domain/machine/orders.ts',
      'sandbox/domain/parking.ts',
      'sandbox/open.ts',
      'sandbox/wire/codec.ts',
    ],
  },
  {
    module: 'sandbox/door/supervise.ts',
    names: ['supervise'],
    allowed: ['sandbox/door/planned-sandbox.ts', 'sandbox/door/visit.ts'],
  },
  {
    module: 'egress/open.ts',
    names: ['openEgress'],
    allowed: ['sandbox/door/planned-sandbox.ts'],
  },
  {
    module: 'artifacts/copy-in.ts',
    names: ['sendFiles'],
    allowed: ['sandbox/door/make-files.ts'],
  },
];

interface Import {
  readonly importer: string;
  readonly module: string;
  /** `*` for a namespace and for what is imported late: it may be any of its exports. */
  readonly name: string;
}

/** Static imports and re-exports, as Biome formats them; in groups: all types, the names, the module. */
const STATIC =
  /^\s*(?:import|export) (type )?(?:\{([^}]*)\}|\*(?: as \w+)?|\w+) from '(\.[^']+)'/gm;

/** Late imports. */
const LATE = /(?<!typeof )\bimport\(\s*'(\.[^']+)'/g;

/** Every value that a module of src takes from another. Types cannot enter anything. */
function valuesImported(importer: string, text: string): Import[] {
  const moduleOf = (specifier: string) =>
    relative(source, resolve(dirname(join(source, importer)), specifier));
  const found: Import[] = [];
  for (const [, types, names, specifier = ''] of text.matchAll(STATIC)) {
    if (types !== undefined) continue;
    const values = names?.split(',').map((name) => name.trim()) ?? ['*'];
    for (const name of values.filter((one) => one !== '' && !one.startsWith('type '))) {
      found.push({ importer, module: moduleOf(specifier), name: name.replace(/ as \w+$/, '') });
    }
  }
  for (const [, specifier = ''] of text.matchAll(LATE)) {
    found.push({ importer, module: moduleOf(specifier), name: '*' });
  }
  return found;
}

async function allImports(): Promise<Import[]> {
  const modules = await readdir(source, { recursive: true });
  const imports = modules
    .filter((module) => module.endsWith('.ts'))
    .map(async (module) => valuesImported(module, await readFile(join(source, module), 'utf8')));
  return (await Promise.all(imports)).flat();
}

test('only the door makes policies and opens, starts, supervises or fills sandboxes', async (t) => {
  const imports = await allImports();
  const around: string[] = [];
  for (const { module, names, allowed } of LOW_LEVEL) {
    const text = await readFile(join(source, module), 'utf8');
    for (const name of names) {
      t.regex(text, new RegExp(`^export (?:async )?(?:function|class) ${name}\\b`, 'm'));
      const callers = imports.filter(
        (one) => one.module === module && [name, '*'].includes(one.name),
      );
      t.true(
        allowed.length === 0 || callers.some(({ importer }) => allowed.includes(importer)),
        `nobody uses ${name}`,
      );
      for (const { importer } of callers) {
        if (!allowed.includes(importer))
          around.push(`src/${importer} takes ${name} of src/${module}`);
      }
    }
  }
  t.deepEqual(around, [], 'take PlannedSandbox of src/sandbox/door/planned-sandbox.ts');
});

test('the import scanner finds every form, and skips type-only imports', (t) => {
  const text = `
    import type { FilledSandbox } from '../sandbox/open.ts';
    import { type SandboxUse, openSandbox as enter } from '../sandbox/open.ts';
    import * as policy from '../sandbox/policy.ts';
    export { copyIn } from '../artifacts/copy-in.ts';
    const { openEgress } = await import('../../src/egress/open.ts');
    import ts from 'typescript';`;
  t.deepEqual(
    valuesImported('run/new.ts', text).map(({ module, name }) => `${name} of ${module}`),
    [
      'openSandbox of sandbox/open.ts',
      '* of sandbox/policy.ts',
      'copyIn of artifacts/copy-in.ts',
      '* of egress/open.ts',
    ],
  );
});

/** The fields of a job that have no default. */
type Required = {
  [Field in keyof SandboxJob]-?: object extends Pick<SandboxJob, Field> ? never : Field;
}[keyof SandboxJob];

/** tsc refuses a name in here that a job may leave out, and the test one that is not in here. */
const REQUIRED: readonly Required[] = [
  ...([
    'isolation',
    'network',
    'binds',
    'volumes',
    'allowHostWrite',
    'protectedPaths',
    'privateTmp',
    'namespaces',
  ] as const),
  ...(['nested', 'boot', 'label', 'allowMissing', 'egress', 'owner'] as const),
];

test('fields that decide isolation have no default', async (t) => {
  const text = await readFile(join(source, 'sandbox/policy/specification.ts'), 'utf8');
  const isolation = /^export interface Isolation \{(.*?)^\}/ms.exec(text)?.[1];
  const found = (isolation ?? '').matchAll(/^ {2}readonly (\w+)\??:/gm);
  const fields = [...found].map(([, field]) => field as Required);
  t.true(fields.length >= 9);
  t.deepEqual(
    fields.filter((field) => !REQUIRED.includes(field)),
    [],
  );
});

const JOB: SandboxJob = {
  isolation: 'container',
  network: 'private',
  binds: [{ source: '/a', place: ownPath('/a'), target: '/b', readonly: true }],
  volumes: [],
  allowHostWrite: false,
  protectedPaths: [],
  privateTmp: true,
  namespaces: 0,
  nested: false,
  boot: false,
  label: { kind: 'auto' },
  allowMissing: [],
  egress: ['a.example'],
  owner: { uid: 0, gid: 0 },
  caller: { uid: 0, gid: 0 },
  shownAs: ['test'],
};

test('a plan is frozen, serialisable, and shares nothing with its request', (t) => {
  const plan = planSandbox(JOB, {
    tree: '/tree',
    id: undefined,
    arch: undefined,
    environment: { A: 'b' },
  });
  t.deepEqual(JSON.parse(JSON.stringify(plan)), plan);
  t.not(plan.sandbox.binds, JOB.binds);
  const frozen = (value: unknown): boolean =>
    typeof value !== 'object' ||
    value === null ||
    (Object.isFrozen(value) && Object.values(value).every(frozen));
  t.true(frozen(plan));
  t.false(Object.isFrozen(JOB.binds));
});
