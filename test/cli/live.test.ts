/** Lines that change in place, as terminals show them: script(1) has what is written, tmux what is seen. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { BUSYBOX, openWorkshop } from '../build/recipe/workshop.ts';
import { eventually } from '../support/eventually.ts';

const source = join(import.meta.dirname, '../../src/cli');
let folder: string;
let program: string;

/** A table of three packages, whose steps wait for a line on stdin each. */
const PROGRAM = `
import { createInterface } from 'node:readline';
import { hasColours, isLive, LiveTable } from ${JSON.stringify(join(source, 'output/progress.ts'))};
import { processCaller as caller } from ${JSON.stringify(join(source, 'caller/process-caller.ts'))};
let done = 0;
const rows = () => [
  { cells: [\`\${done} of 3 done, \${hasColours(caller.stderr, caller)}\`], style: 'red' },
  ...Array.from({ length: 3 - done }, (_, n) => ({ cells: [\`  package\${n}\`, 'a\\u001b[2J'.repeat(30), '1 s'] })),
];
const table = isLive(caller) ? new LiveTable(caller, rows) : undefined;
const note = () => caller.stderr.say(\`note \${done}\\n\`);
for await (const _ of createInterface({ input: process.stdin })) {
  done++;
  if (table === undefined) note();
  else table.above(note);
  if (done === 3) break;
}
table?.[Symbol.dispose]();
caller.stderr.say('the end\\n');
process.stdin.destroy();
`;

test.before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kiln-live-'));
  program = join(folder, 'live.mjs');
  await writeFile(program, PROGRAM);
});
test.after.always(async () => {
  await rm(folder, { recursive: true, force: true });
});

interface Window {
  readonly press: (...keys: string[]) => Promise<unknown>;
  readonly seen: () => Promise<string[]>;
  readonly shows: (line: RegExp) => Promise<unknown>;
}

async function onTmux(file: string, look: (window: Window) => Promise<void>): Promise<void> {
  const socket = join(folder, 'tmux');
  const tmux = async (...args: string[]) =>
    (await execa('tmux', ['-S', socket, '-f', '/dev/null', ...args])).stdout;
  const seen = async () => (await tmux('capture-pane', '-p', '-t', 'it')).trimEnd().split('\n');
  const shows = (wanted: RegExp) =>
    eventually(async () => (await seen()).some((line) => wanted.test(line)));
  const command = `stty -echo; '${process.execPath}' '${file}'; exec sleep 600`;
  const size = ['-x', '60', '-y', '20'];
  const program = ['env', '-u', 'NO_COLOR', 'sh', '-c', command];
  await tmux('new-session', '-d', '-s', 'it', ...size, ...program);
  try {
    await look({ press: (...keys) => tmux('send-keys', '-t', 'it', ...keys), seen, shows });
  } finally {
    await tmux('kill-server').catch(() => undefined);
  }
}

test.serial('live lines stay at the bottom, fit the window, and are gone at the end', async (t) => {
  await onTmux(program, async ({ press, seen, shows }) => {
    await shows(/^0 of 3 done, true$/);
    const first = await seen();
    t.is(first.length, 4);
    for (const line of first.slice(1)) {
      t.regex(line, /^ {2}package\d {2}a\\x1b\[2Ja/);
      t.is(line.length, 59);
    }
    await press('Enter');
    await shows(/^1 of 3 done, true$/);
    t.deepEqual((await seen()).slice(0, 2), ['note 1', '1 of 3 done, true']);
    t.is((await seen()).length, 4);
    await press('Enter', 'Enter');
    await shows(/^the end$/);
    t.deepEqual(await seen(), ['note 1', 'note 2', 'note 3', 'the end']);
  });
});

test.serial('--quiet reports what fails, and not what succeeds', async (t) => {
  await using workshop = await openWorkshop();
  const recipe = (step: string) => ({ 'it.yaml': `image: ${BUSYBOX}\nsteps: ["${step}"]\n` });
  const well = await workshop.build(recipe('echo said'), ['-q']);
  t.deepEqual([well.exitCode, well.stdout], [0, '']);
  t.deepEqual(
    well.stderr.split('\n').filter((line) => !line.includes('/out/')),
    [''],
  );
  const badly = await workshop.build(recipe('echo why; exit 3'), ['-q']);
  t.is(badly.exitCode, 3);
  t.regex(badly.stderr, /kiln: step 1 of 1: fail, [\d.]+ s\n(?:.*\n)* {2}\| why/);
});

const FARM_LINES = [
  ...['kiln: liba: built in 1.5 s on node-1', '  | the last line', 'kiln: libb: failed: it failed'],
  ...['  see /out/libb/report.html, or the logs beside it', 'kiln: app: skipped: it needs libb'],
];

test.serial('a chain on a farm has the table of a local one, or else plain lines', async (t) => {
  const file = join(import.meta.dirname, 'farm-table-child.ts');
  await onTmux(file, async ({ press, shows, seen }) => {
    await shows(/^kiln: 0 of 3 done, 2 building, 1 to go, [\d.]+ s$/);
    const [note, , ...building] = await seen();
    t.is(note, 'kiln: 2 steps submitted');
    t.regex(building[0] ?? '', /^ {2}liba {2}on node-1 {2}[\d.]+ s$/);
    t.regex(building[1] ?? '', /^ {2}libb {2}on node-2 {2}[\d.]+ s$/);
    await press('Enter');
    await shows(/^the end$/);
    t.deepEqual(await seen(), ['kiln: 2 steps submitted', ...FARM_LINES, 'the end']);
  });
  const plain = async (...words: string[]) =>
    (await execa(process.execPath, [file, ...words], { input: 'x\n' })).stderr.split('\n');
  const begun = ['2 steps submitted', 'liba: building on node-1', 'libb: building on node-2'];
  const lines = begun.map((text) => `kiln: ${text}`);
  t.deepEqual(await plain(), [...lines, ...FARM_LINES, 'the end']);
  t.deepEqual(await plain('quiet'), [...FARM_LINES.slice(1), 'the end']);
});

const COLOUR = /\u001b\[[\d;]*m/;

test.serial('colours follow no-color.org, and a dumb terminal gets plain lines', async (t) => {
  const written = async (env: NodeJS.ProcessEnv) => {
    const script = ['-qec', `printf 'x\nx\nx\n' | '${process.execPath}' '${program}'`, '/dev/null'];
    const { stdout } = await execa('script', script, {
      env: { TERM: 'xterm', NO_COLOR: undefined, ...env },
    });
    return stdout;
  };
  t.regex(await written({}), COLOUR);
  t.regex(await written({ NO_COLOR: '' }), COLOUR);
  const plain = await written({ NO_COLOR: '1' });
  t.notRegex(plain, COLOUR);
  t.regex(plain, /\u001b\[2K/, 'it changes in place all the same');
  t.notRegex(await written({ TERM: 'dumb' }), /\u001b/);
});
