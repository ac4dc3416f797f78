/** What belongs to a process and not to a caller is read in few places: a daemon has many callers. */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';

const source = join(import.meta.dirname, '../../src');

/** Where a process of kiln's begins, and reads what it was given. */
const ENTRIES = [
  ...['engine.ts', 'programs/kilnd.ts', 'programs/confined.ts', 'programs/egress-proxy.ts'],
  // What a confined child runs: a process of its own, without a caller's environment.
  ...['host/confine/child.ts', 'jobs/recipe/script-task.ts'],
  // The one that knows who called.
  'cli/caller/process-caller.ts',
  // The library is in its caller's own process.
  ...['api/connect.ts', 'api/kiln.ts'],
];

/** What has the process itself as its purpose. */
const OWN = ['host/process/own-process.ts', 'host/process/own-umask.ts'];

/** Whose business the process is: what it hands on to programs, how patient it is, where it traces and logs. */
const OWN_USERS = [
  'daemon/listener.ts',
  ...['host/process/child-process.ts', 'host/process/own-node.ts'],
  ...['host/process/wait-for.ts', 'host/libvirt/pool.ts', 'packages/repository/transport/reach.ts'],
  ...[
    'packages/rpm/signature/librpmio.ts',
    'service/log-file.ts',
    'host/sockets/service-manager.ts',
  ],
  ...['host/trace/trace.ts', 'events/event-log.ts'],
];

/** Of the command line: what enters it, and a caller that is this process. */
const OWN_CALLER =
  /^(?:programs\/command-line|cli\/output\/errors|cli\/caller\/process-caller|programs\/kilnd-worker)\.ts$/;

async function modules(): Promise<(readonly [string, string])[]> {
  const names = await readdir(source, { recursive: true });
  return await Promise.all(
    names
      .filter((name) => name.endsWith('.ts'))
      .map(async (name) => {
        const text = await readFile(join(source, name), 'utf8');
        return [name, text.replace(/^\s*(?:\/?\*|\/\/).*$/gm, '')] as const;
      }),
  );
}

/** What a module reads of its process. */
function reads(text: string): string[] {
  const of = String.raw`(?<![\w.#])process\s*\??\.\s*`;
  const found = [
    ...text.matchAll(new RegExp(`${of}(env|cwd|umask|chdir|stdin|stdout|stderr)\\b`, 'g')),
  ];
  const imported = /from '(?:node:)?process'|\{[^}]*\} = process;|\bglobalThis\.process\b/.test(
    text,
  );
  // A command's process may be called that, too: it has streams and nothing else of these.
  const command = /(?:const|let) process\b|[({,]\s*process\b\s*[:,})]/.test(text);
  const names = found
    .map(([, name = '']) => name)
    .filter((name) => !(command && name.startsWith('std')));
  return imported ? [...names, 'import'] : names;
}

test('no module below an entry reads environment, folder, umask or stdio of its process', async (t) => {
  const found: string[] = [];
  for (const [name, text] of await modules()) {
    if (OWN_CALLER.test(name) || ENTRIES.includes(name) || OWN.includes(name)) continue;
    found.push(...reads(text).map((what) => `src/${name} reads process.${what}`));
  }
  t.deepEqual(found, []);
});

test('only a few modules touch their own process', async (t) => {
  const users = (await modules())
    .filter(([, text]) => /'[./\w-]*\/own-process\.ts'/.test(text))
    .map(([name]) => name);
  t.deepEqual(users.sort(), OWN_USERS.sort());
});

test('every module that is allowed to touch the process needs to', async (t) => {
  const texts = new Map(await modules());
  for (const name of [
    ...OWN,
    'cli/caller/process-caller.ts',
    'engine.ts',
    'programs/kilnd.ts',
    'programs/egress-proxy.ts',
  ]) {
    t.true(reads(texts.get(name) ?? '').length > 0, name);
  }
});

test('the scan finds every form of access to the process', (t) => {
  t.deepEqual(reads('x(process.env.A, process?.cwd())'), ['env', 'cwd']);
  t.deepEqual(reads('const { env } = process;'), ['import']);
  t.deepEqual(reads("import { env } from 'node:process';"), ['import']);
  t.deepEqual(reads('this.#process?.stdin.destroy(); command.process.stdin.end();'), []);
  t.deepEqual(reads('const process = await spawn(); process.stdin.end(process.env)'), ['env']);
});
