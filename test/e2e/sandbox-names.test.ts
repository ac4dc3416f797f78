/** `--name`: what a sandbox is called, who may have a name, and where names are taken for ids. */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { type BusyboxState, busyboxState } from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';

let state: BusyboxState;
test.before(async () => {
  state = await busyboxState();
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

const kiln = (...words: string[]) => state.kiln(words);
const run = (name: string, ...words: string[]) =>
  kiln('run', '-r', 'busybox', '--name', name, ...words);

/** The names in the records of sandboxes, as they lie. */
const recorded = () =>
  readdirSync(state.paths.sandboxes).flatMap((id) => {
    const file = join(state.paths.sandboxes, id, 'sandbox.json');
    return JSON.parse(readFileSync(file, 'utf8').split('\n')[0] ?? '').name ?? [];
  });

test.serial('commands take the name of a kept sandbox for its id', async (t) => {
  const kept = await run('work', '--keep', '--', 'sh', '-c', 'echo left >/tmp/x');
  t.is(kept.exitCode, 0, String(kept.stderr));
  t.regex(String(kept.stderr), /kept as \w{10}: kiln shell work/);
  t.deepEqual(recorded(), ['work']);
  t.is((await kiln('exec', 'work', '--', 'cat', '/tmp/x')).stdout, 'left');
  t.regex(String((await kiln('diff', 'work')).stdout), /^A \/tmp\/x$|^$/m);
  const [{ id, name }] = JSON.parse(String((await kiln('ps', '--json')).stdout));
  t.is(name, 'work');
  t.is((await kiln('ps', '--format', '{{.ID}} {{.Name}}')).stdout, `${id} work`);
  t.like(JSON.parse(String((await kiln('inspect', 'work')).stdout))[0], { type: 'sandbox', id });
  t.true(String((await kiln('complete', 'sandbox')).stdout).includes('work\t'));
  const again = await run('work', '--', 'true');
  t.is(again.exitCode, 125);
  t.regex(String(again.stderr), new RegExp(`already have a sandbox named work: ${id}`));
  const job = await run('work', '--detach', '--', 'true');
  t.regex(String(job.stderr), new RegExp(`already have a sandbox named work: ${id}`));
  t.is((await kiln('kill', 'work')).stdout, id);
  t.deepEqual(recorded(), []);
});

test.serial('the name of a running command is free once that has ended', async (t) => {
  mkdirSync(join(state.beside, 'gate'));
  const wait = 'until test -e /gate/open; do sleep 0.1; done';
  const gate = ['-v', `${state.beside}/gate:/gate:ro`];
  const running = run('busy', ...gate, '--', 'sh', '-c', wait);
  await eventually(async () => {
    const { exitCode, stdout } = await kiln('exec', 'busy', '--', 'echo', 'entered');
    return exitCode === 0 && stdout === 'entered';
  });
  const shell = await kiln('shell', '-r', 'busybox', '--name', 'busy');
  t.regex(String(shell.stderr), /already have a sandbox named busy: \w{10} \[E_JOB_NAME\]/);
  writeFileSync(join(state.beside, 'gate/open'), '');
  t.is((await running).exitCode, 0);
  t.is((await run('busy', '--', 'true')).exitCode, 0);
  t.deepEqual(readdirSync(join(state.paths.run, 'names')), []);
});

test.serial('one of two that begin at once gets the name', async (t) => {
  const both = await Promise.all([1, 2].map(() => run('both', '--keep', '--', 'true')));
  const statuses = both.map(({ exitCode }) => exitCode);
  t.deepEqual(statuses.toSorted(), [0, 125], String(both.map(({ stderr }) => stderr)));
  t.deepEqual(recorded(), ['both']);
  await kiln('kill', 'both');
});

test.serial('a sandbox’s name must be a word that does not look like an id', async (t) => {
  for (const [name, said] of [
    ['beef', /the name beef looks like an id \[E_ARGUMENT\]/],
    ['0123456789', /looks like an id/],
    ['1st', /"1st" is not a valid name/],
    ['../x', /"\.\.\/x" is not a valid name/],
    ['a'.repeat(64), /looks like an id/],
    ['x'.repeat(64), /is not a valid name/],
  ] as const) {
    const { exitCode, stderr } = await run(name, '--', 'true');
    t.is(exitCode, 125);
    t.regex(String(stderr), said);
  }
  const build = await kiln('build', '-r', 'busybox', '--name', 'x', 'x.src.rpm');
  t.regex(String(build.stderr), /--name of a build needs --detach/);
});
