import { readdir, readFile } from 'node:fs/promises';
import { dirname, join, relative, resolve } from 'node:path';
import test from 'ava';

const source = join(import.meta.dirname, '../../src');

/** Folders whose folders are rooms of their own. */
const BUILDINGS = ['host', 'packages', 'jobs', 'sandbox'];

/** The rooms of src: a module imports modules of its own room and of those before it, types included. */
const ROOMS: readonly string[] = [
  ...['defined.ts', 'promise.ts', 'error-codes.ts', 'errors.ts', 'counted.ts'],
  ...['shell-words.ts', 'suggest.ts'],
  ...['host/calls', 'host/process', 'host/cgroup', 'host/files', 'host/sockets'],
  ...['host/state', 'host/trace', 'host/confine', 'host/libvirt', 'stray-errors.ts'],
  ...['api', 'artifacts', 'egress', 'events', 'packages/rpm', 'packages/repository'],
  ...['sandbox/wire', 'sandbox/seccomp', 'sandbox/policy', 'sandbox/labels', 'sandbox/command'],
  ...['sandbox/domain', 'sandbox/network', 'sandbox/open.ts', 'sandbox/door'],
  ...[
    'options',
    'recipe',
    'result',
    'users',
    'engine.ts',
    'report',
    'packages/solver',
    'image',
    'snapshot',
  ],
  ...['jobs/run', 'jobs/changes', 'daemon', 'jobs/rpmbuild', 'jobs/chain', 'jobs/recipe'],
  ...[
    'jobs/verify',
    'doctor',
    'service',
    'detached',
    'remote',
    'jobs/mock',
    'farm',
    'cli',
    'serve',
    'index.ts',
    'programs',
  ],
];

/** Files that a folder may have: who looks for one reads the list. The init's has two for each module. */
const MOST = 22;

/** Modules of src, as paths below it. */
async function modules(): Promise<string[]> {
  const names = await readdir(source, { recursive: true });
  return names.filter((name) => name.endsWith('.ts'));
}

/** What a module imports from src, statically or not, types included, as paths below src. */
async function imports(module: string): Promise<string[]> {
  return importsIn(module, await readFile(join(source, module), 'utf8'));
}

function importsIn(module: string, text: string): string[] {
  const specifiers = text.matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g);
  const folder = dirname(join(source, module));
  return [...specifiers].map(([, path]) => relative(source, resolve(folder, path ?? '')));
}

function roomOf(module: string): string {
  const [first = '', second = ''] = module.split('/');
  return BUILDINGS.includes(first) ? `${first}/${second}` : first;
}

test('every module belongs to a room', async (t) => {
  const rooms = new Set((await modules()).map(roomOf));
  t.deepEqual([...rooms].toSorted(), [...ROOMS].toSorted());
});

test('a room imports no room that comes after it, types included', async (t) => {
  const upward: string[] = [];
  for (const module of await modules()) {
    for (const imported of await imports(module)) {
      if (ROOMS.indexOf(roomOf(imported)) > ROOMS.indexOf(roomOf(module))) {
        upward.push(`src/${module} imports src/${imported}`);
      }
    }
  }
  t.deepEqual(upward, []);
});

test('no folder has too many files to look through', async (t) => {
  const sizes = new Map<string, number>();
  for (const module of await modules()) {
    sizes.set(dirname(module), (sizes.get(dirname(module)) ?? 0) + 1);
  }
  t.deepEqual(
    [...sizes].filter(([, size]) => size > MOST),
    [],
  );
});

test('the scan finds static, dynamic and type imports', async (t) => {
  // The command table imports its modules lazily: the form most easily missed.
  const found = await imports('programs/command-line.ts');
  t.true(found.includes('cli/output/errors.ts'));
  t.true(found.some((path) => path.startsWith('cli/') && path !== 'cli/output/errors.ts'));
});

test('errno is never read after a call: system calls go through the addon', async (t) => {
  const offenders: string[] = [];
  for (const module of await modules()) {
    const text = await readFile(join(source, module), 'utf8');
    if (/koffi\.errno\(/.test(text)) offenders.push(`src/${module} reads errno through koffi`);
    // What these call gives its error as the result, as a null pointer, has a function for it, or none.
    const others = ['host/calls/libc.ts', 'packages/solver/libsolv/libsolv.ts'];
    const allowed = [
      ...others,
      'host/libvirt/library.ts',
      'packages/rpm/signature/librpmio.ts',
    ].includes(module);
    if (/\blibc\.func\(/.test(text) && !allowed) offenders.push(`src/${module} calls libc`);
  }
  t.deepEqual(offenders, []);
});

test('trees are removed through descriptors: Node’s functions take no deep ones', async (t) => {
  const found: string[] = [];
  for (const module of await modules()) {
    const text = await readFile(join(source, module), 'utf8');
    for (const [call] of text.matchAll(/\brm(?:dir)?(?:Sync)?\([^;]*?\brecursive\b/g)) {
      found.push(`src/${module}: ${call.slice(0, 60)}`);
    }
  }
  t.deepEqual(found, [], 'take removeTree of src/host/files/remove-tree.ts');
});

test('no thread loads koffi, which ends the process if the thread is terminated', async (t) => {
  const reached = new Set<string>();
  const waiting = ['programs/watch-disk.ts'];
  for (let module = waiting.pop(); module !== undefined; module = waiting.pop()) {
    if (reached.has(module)) continue;
    reached.add(module);
    const text = await readFile(join(source, module), 'utf8');
    t.false(/from 'koffi'/.test(text), `${module} loads koffi`);
    for (const imported of await imports(module)) waiting.push(imported);
  }
  t.true(reached.size > 5);
});

test('no module imports itself through others, types included', async (t) => {
  const graph = new Map<string, string[]>();
  for (const module of await modules()) graph.set(module, await imports(module));
  t.deepEqual(circles(graph), []);
  const like = new Map([
    ['a', ['b', 'c']],
    ['b', ['d']],
    ['c', ['d']],
    ['d', ['b']],
  ]);
  t.deepEqual(circles(like), ['b → d → b']);
  // An import of types alone.
  t.true((await imports('host/confine/frame.ts')).includes('host/confine/task.ts'));
});

/** The circles of a graph: one for each import that closes one, as text. */
function circles(graph: ReadonlyMap<string, readonly string[]>): string[] {
  const found: string[] = [];
  const done = new Set<string>();
  const path: string[] = [];
  const visit = (module: string) => {
    const at = path.indexOf(module);
    if (at >= 0) found.push([...path.slice(at), module].join(' → '));
    if (at >= 0 || done.has(module)) return;
    path.push(module);
    for (const imported of graph.get(module) ?? []) visit(imported);
    path.pop();
    done.add(module);
  };
  for (const module of graph.keys()) visit(module);
  return found;
}
