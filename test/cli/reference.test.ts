/** Man pages, docs/reference and completion scripts tell of the same options; real shells complete them. */
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { execa } from 'execa';
import { SHELLS } from '../../scripts/write/completions/scripts.ts';
import {
  type CommandDescription,
  describedByDefault,
  withSubcommands,
} from '../../scripts/write/describe.ts';
import { manPages } from '../../scripts/write/man.ts';
import { guidePages } from '../../scripts/write/man-guides.ts';
import { referencePages } from '../../scripts/write/markdown.ts';
import { API_PAGES, REFERENCE } from '../../scripts/write/reference.ts';
import type { Shell } from '../../src/cli/completion.ts';
import { type BusyboxState, busyboxState, KILN, PATIENCE } from '../support/busybox-state.ts';

const kiln = await describedByDefault();
const commands = withSubcommands(kiln);
const shells: readonly Shell[] = ['bash', 'zsh', 'fish'];

let state: BusyboxState;
/** The scripts, and manual pages. */
let folder: string;

test.before(async () => {
  state = await busyboxState();
  folder = await mkdtemp(join(tmpdir(), 'kiln-reference-'));
  for (const shell of shells) await writeFile(join(folder, shell), SHELLS[shell](kiln));
  for (const [name, text] of pages()) await writeFile(join(folder, `${name}.1`), text);
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

function pages(): ReadonlyMap<string, string> {
  return manPages(kiln, { date: '2026-11-27', version: '1.2.3' });
}

function guides(): ReadonlyMap<string, string> {
  return guidePages({ date: '2026-11-27', version: '1.2.3' });
}

/** `-r`, `--image`: all names of options of a command, sorted. */
function namesOf(command: CommandDescription): string[] {
  return command.options.flatMap(({ names }) => names).sort();
}

/** Names of options in the text of help: `-r, --image <image>`. */
function namesIn(flags: string): string[] {
  const [names = ''] = flags.split(/ [<[A-Z]|\[=/);
  return names.split(', ');
}

/** Words that are completed with kiln of this checkout, on the state of the test. */
function surroundings(): NodeJS.ProcessEnv {
  const { PATH = '' } = process.env;
  return { ...state.env, PATH: `${join(KILN, '..')}:${PATH}`, TERM: 'dumb', PS1: '> ' };
}

/** What bash has in COMPREPLY for a command line whose last word is being written. */
async function inBash(line: readonly string[]): Promise<string[]> {
  const script = `. '${folder}/bash'; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _kiln 2>/dev/null
    [ \${#COMPREPLY[@]} = 0 ] || printf '%s\\n' "\${COMPREPLY[@]}"`;
  const bash = ['--norc', '-c', script, 'bash', ...line];
  const { stdout } = await execa('bash', bash, { env: surroundings() });
  return stdout.split('\n').filter((word) => word !== '');
}

/** What fish offers for each of these command lines. */
async function inFish(...lines: readonly string[]): Promise<string[][]> {
  const script = `source '${folder}/fish'; for line in $argv; complete -C "$line"; echo =; end`;
  const { stdout } = await execa('fish', ['--no-config', '-c', script, ...lines], {
    env: surroundings(),
  });
  const offers = `\n${stdout}`.split(/\n=(?:$|(?=\n))/).slice(0, lines.length);
  return offers.map((text) =>
    text
      .split('\n')
      .map((line) => line.replace(/\t.*/, ''))
      .filter((word) => word !== ''),
  );
}

/** Types a line with a tab at its end into an interactive shell, and has it say what became of it. */
async function typed(shell: 'bash' | 'zsh', line: string): Promise<string> {
  const init = shell === 'bash' ? '' : 'bindkey -e; autoload -U compinit; compinit -D; ';
  const start = shell === 'bash' ? 'bash --norc -i' : 'zsh -f -i';
  const running = execa('script', ['-qefc', start, '/dev/null'], {
    env: { ...surroundings(), HISTFILE: '' },
    stdin: 'pipe',
    reject: false,
    timeout: 60_000 * PATIENCE,
  });
  let seen = '';
  running.stdout.on('data', (chunk) => {
    seen += chunk;
  });
  const until = async (mark: string) => {
    for (let tries = 0; !seen.includes(mark) && tries < 600 * PATIENCE; tries++) await sleep(100);
  };
  running.stdin.write(`${init}. '${folder}/${shell}'; echo rea""dy\n`);
  await until('ready');
  // At the start of the line: what it has become is printed.
  running.stdin.write(`${line}\t`);
  for (let before = -1; before !== seen.length; await sleep(1000 * PATIENCE)) before = seen.length;
  running.stdin.write("\u0001echo '<\u0005>'\n");
  await until('\n<');
  running.stdin.write('exit\n');
  await running;
  return /\n<(.*)>/.exec(seen)?.[1]?.trimEnd() ?? seen;
}

test('docs/reference is what scripts/write/reference.ts writes', async (t) => {
  const made = referencePages(kiln);
  const there = (await readdir(REFERENCE)).filter((name) => !API_PAGES.test(name));
  t.deepEqual(there.sort(), [...made.keys()].sort());
  for (const [name, text] of made) {
    const page = await readFile(join(REFERENCE, name), 'utf8');
    t.is(page, text, `${name}: run npm run write-reference`);
  }
});

test('package.json lists every manual page', async (t) => {
  // npm links none of a folder that is named in `directories`.
  const { man } = JSON.parse(await readFile(join(KILN, '../../package.json'), 'utf8'));
  const names = [...pages().keys()].sort().map((name) => `${name}.1`);
  const files = [...names, ...[...guides().keys()].sort()];
  t.deepEqual(
    man,
    files.map((name) => `dist/man/man${name.at(-1)}/${name}`),
    'run npm run write-reference',
  );
});

test('reference, manual pages and completions have the same options', async (t) => {
  t.true(commands.length > 40);
  t.true(namesOf(kiln.commands[0] as CommandDescription).length > 30);
  const manual = pages();
  const reference = [...referencePages(kiln).values()].join('');
  const zsh = await readFile(join(folder, 'zsh'), 'utf8');
  const called = new Set(zsh.match(/(?<=:)__kiln_\w+/g));
  t.deepEqual(
    [...called].filter((name) => !zsh.includes(`${name}() {`)),
    [],
    'zsh: functions that are not there',
  );
  for (const command of commands) {
    const { words, program } = command;
    const names = namesOf(command);
    const line = program.split(' ');
    const dashed = (word: string) => word.startsWith('-');
    // bash offers each by its first sign.
    const bash = (await inBash([...line, '-'])).filter(dashed);
    t.deepEqual(bash.sort(), names, `bash: ${program}`);
    const [, own = ''] =
      new RegExp(`^${['_kiln', ...words].join('_')}\\(\\) \\{\\n([\\s\\S]*?)^\\}`, 'm').exec(zsh) ??
      [];
    const inZsh = [...own.matchAll(/^ {4}'(?:\*|\([^)]*\))(--?[\w-]+?)(?:=-|[=+])?\[/gm)];
    t.deepEqual(inZsh.map(([, name]) => name).sort(), names, `zsh: ${program}`);
    if (program === 'kiln help') continue;
    const page = manual.get(['kiln', ...words.slice(0, 1)].join('-')) ?? '';
    const [, section] =
      words.length < 2
        ? ['', /^\.SH OPTIONS\n([\s\S]*?)(?:^\.SH|^\.PP)/m.exec(page)?.[1] ?? '']
        : [
            '',
            page.split(`.SS ${program.replaceAll('-', '\\-')}\n`)[1]?.split(/^\.S[SH] /m)[0] ?? '',
          ];
    const inMan = [...section.matchAll(/^\.TP\n(.*\\fB\\-.*)$/gm)].flatMap(([, flags = '']) =>
      namesIn(flags.replaceAll(/\\f[BR]/g, '').replaceAll('\\-', '-')),
    );
    t.deepEqual(inMan.sort(), names, `man: ${program}`);
    if (words.length === 0) continue;
    const [, part = ''] = reference.split(new RegExp(`^#+ ${program}$`, 'm'));
    const rows = part.split(/^#/m)[0]?.matchAll(/^\| `(-.*?)` \|/gm) ?? [];
    const inPage = [...rows].flatMap(([, flags = '']) => namesIn(flags));
    t.deepEqual(inPage.sort(), names, `docs/reference: ${program}`);
  }
});

test('fish offers exactly the options of each command', async (t) => {
  const offers = await inFish(...commands.map(({ program }) => `${program} --`));
  for (const [at, command] of commands.entries()) {
    const long = namesOf(command).filter((name) => name.startsWith('--'));
    t.deepEqual(offers[at]?.sort(), long, command.program);
  }
});

test('man and mandoc accept the manual pages without a warning', async (t) => {
  for (const name of pages().keys()) {
    const file = join(folder, `${name}.1`);
    const read = await execa('man', ['--warnings', '-l', file], { env: { MANPAGER: 'cat' } });
    t.is(read.stderr, '', name);
    t.true(read.stdout.includes(`${name.toUpperCase()}(1)`), name);
    const { stdout } = await execa('mandoc', ['-Tlint', file], { reject: false });
    t.is(stdout, '', name);
  }
});

test('man and mandoc accept the pages of files and of the daemon, which have their keys', async (t) => {
  for (const [name, text] of guides()) {
    const file = join(folder, name);
    await writeFile(file, text);
    const read = await execa('man', ['--warnings', '-l', file], { env: { MANPAGER: 'cat' } });
    t.is(read.stderr, '', name);
    const { stdout } = await execa('mandoc', ['-Tlint', file], { reject: false });
    t.is(stdout, '', name);
  }
  const has = (page: string, ...words: string[]) => {
    for (const word of words)
      t.regex(guides().get(page) ?? '', new RegExp(word), `${page}: ${word}`);
  };
  has('kiln.yaml.5', 'stall\\\\-timeout', 'mirrors', 'hostImage');
  has('kiln-recipe.5', 'extends', 'scriptlets', 'steps');
  has('service.yaml.5', 'fBhealth.interval', 'fBmounts.source', 'fBpublish');
  has('kilnd.8', 'KILN_IDLE', 'kiln.socket');
});

test('bash completes commands, options, values, and what kiln lists', async (t) => {
  t.deepEqual(await inBash(['kiln', 'im']), ['image']);
  t.deepEqual(await inBash(['kiln', 'image', 'sho']), ['show']);
  t.deepEqual(await inBash(['kiln', 'run', '--profile', 'nes']), ['nested']);
  // As bash splits --profile=nes.
  t.deepEqual(await inBash(['kiln', 'run', '--profile', '=', 'nes']), ['nested']);
  t.deepEqual(await inBash(['kiln', 'run', '-r', 'bbb']), ['bbbbbbbbbbbb']);
  t.deepEqual(await inBash(['kiln', 'run', '--image', 'debian-bu']), ['debian-build']);
  t.deepEqual(await inBash(['kiln', 'run', '--seccomp', 'st']), ['strict']);
  t.deepEqual(await inBash(['kiln', 'run', '--seccomp', `${folder}/kiln-gc`]), [
    `${folder}/kiln-gc.1`,
  ]);
  t.deepEqual(await inBash(['kiln-mock', '-r', 'fedora']), ['fedora-44']);
  t.deepEqual(await inBash(['kiln', 'build', '--spec', `${folder}/kiln-gc`]), [
    `${folder}/kiln-gc.1`,
  ]);
  // Behind the command, options are the command's.
  t.deepEqual(await inBash(['kiln', 'run', '-r', 'x', '--', 'ls', '--im']), []);
  t.deepEqual(await inBash(['kiln', 'run', '-r', 'x', 'ls', '--im']), []);
});

test('fish completes commands, values, and what kiln lists', async (t) => {
  const lines = {
    'kiln image sho': ['show'],
    'kiln run --profile nes': ['nested'],
    'kiln run -r bbb': ['bbbbbbbbbbbb'],
    'kiln run --seccomp st': ['strict'],
    'kiln-mock -r fedora': ['fedora-44'],
    'kiln run -r x -- ls --im': [],
  };
  t.deepEqual(await inFish(...Object.keys(lines)), Object.values(lines));
});

for (const shell of ['bash', 'zsh'] as const) {
  test.serial(`the tab key in ${shell} completes values and images`, async (t) => {
    t.is(await typed(shell, 'kiln run --profile nes'), 'kiln run --profile nested');
    t.is(await typed(shell, 'kiln run -r bbb'), 'kiln run -r bbbbbbbbbbbb');
  });
}

test('kiln completion prints the script that was built', async (t) => {
  const printed = await state.kiln(['completion', 'zsh']);
  t.is(printed.stdout, SHELLS.zsh(kiln).trimEnd());
});

test.serial('services and sandboxes are completed, but parked ones are not', async (t) => {
  const { stdout } = await state.kiln(['complete', 'service']);
  t.is(stdout, '');
  const kept = await state.kiln(['run', '-r', 'busybox', '--keep', '--', 'echo', 'hello']);
  const [, id = ''] = /kept as (\w+)/.exec(String(kept.stderr)) ?? [];
  const listed = await state.kiln(['complete', 'sandbox']);
  t.is(listed.stdout, `${id}\tkept echo hello`);
  t.deepEqual(await inBash(['kiln', 'kill', id.slice(0, 3)]), [id]);
  await state.kiln(['kill', id]);
});

test.serial(
  'words of jobs, sandboxes and images are completed where a command takes them, and once',
  async (t) => {
    const job = (name: string, ...command: string[]) =>
      state.kiln(['run', '-r', 'busybox', '--detach', '--name', name, '--', ...command]);
    await job('day', 'true');
    await state.kiln(['wait', 'day']);
    const id = String((await job('night', 'sleep', '600')).stdout);
    const listed = String((await state.kiln(['ps'])).stdout);
    t.regex(listed, new RegExp(`^${id} .* night `, 'm'), 'ps has the name and the id of the job');
    for (const word of ['kill', 'shell', 'exec', 'stop'])
      t.deepEqual(await inBash(['kiln', word, '']), ['night'], word);
    for (const word of ['logs', 'results', 'wait', 'attach'])
      t.deepEqual((await inBash(['kiln', word, ''])).sort(), ['day', 'night'], word);
    await state.kiln(['kill', 'night']);
    await mkdir(join(state.paths.store, 'locks'), { recursive: true });
    const tagged = await state.kiln(['image', 'tag', 'busybox', 'mine']);
    t.is(tagged.exitCode, 0, String(tagged.stderr));
    t.deepEqual(await inBash(['kiln', 'run', '-r', 'mi']), ['mine']);
  },
);
