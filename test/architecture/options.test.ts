/** An option is one row, and what acts on it: its name stands nowhere else. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { BUILDS } from '../../src/options/build.ts';
import { EXEC, RUN } from '../../src/options/sandbox.ts';

const MOST = 8;

/**
 * Names of what is there without the option as well: words of English, parts of a sandbox, phases of a build, files. For
 * these a count says nothing.
 */
const THINGS = new Set([
  ...['artifacts', 'binds', 'caches', 'capabilities', 'chain', 'ci', 'continue', 'copyIn', 'cpus'],
  ...[
    'detach',
    'disk',
    'egress',
    'entrypoint',
    'env',
    'farm',
    'file',
    'guestBinds',
    'hostname',
    'image',
    'interactive',
    'isolation',
    'jobs',
    'kernel',
  ],
  ...['json', 'keep', 'label', 'lock', 'memory', 'name', 'network', 'offline', 'packages'],
  ...['parameters', 'pids', 'postinstall', 'profile', 'quiet', 'recurse', 'repositories'],
  ...['resultDirectory', 'resume', 'rm', 'samples', 'schema', 'seccomp', 'secrets', 'spec'],
  'publish',
  // Node's module hooks have this one.
  'shortCircuit',
  ...['target', 'timeout', 'tmpfs', 'tty', 'update', 'user', 'verify', 'with', 'without'],
  'workdir',
]);

/** Options of several kinds of jobs, each of which says by itself that it wants nothing of them. No more may come. */
const KNOWN: Readonly<Record<string, number>> = {
  allowHost: 30,
  allowHostWrite: 18,
  allowMissing: 23,
};

test('the name of an option stands in at most eight files of src', async (t) => {
  const top = join(import.meta.dirname, '../..');
  const { stdout } = await execa('git', ['ls-files', 'src'], { cwd: top });
  const words = stdout
    .split('\n')
    .map((file) => new Set(readFileSync(join(top, file), 'utf8').match(/\w+/g)));
  const names = new Set([RUN, EXEC, BUILDS].flatMap(Object.keys));
  t.true(names.size > 60);
  for (const name of names) {
    if (THINGS.has(name)) continue;
    const files = words.filter((all) => all.has(name)).length;
    const most = KNOWN[name] ?? MOST;
    t.true(files > 0 && files <= most, `${name} stands in ${files} files, not at most ${most}`);
  }
});
