/** What strangers write does not act on the terminal of whoever runs kiln; a command's own output does. */
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { BUSYBOX, openWorkshop, type Workshop } from '../build/recipe/workshop.ts';
import { IMAGE } from '../support/busybox-state.ts';
import { GithubRunner, gitlabSections } from '../support/ci-runner.ts';

const KILN = join(import.meta.dirname, '../../bin/kiln');

/** A title, a cleared screen, a colour, a C1 sequence, a backspace; then the other direction of writing. */
const HOSTILE = String.raw`\033]0;owned\007\033[2J\033[31mred\033[0m\302\2332J\010 \342\200\256gnp`;

let workshop: Workshop;

test.before(async () => {
  workshop = await openWorkshop();
});
test.after.always(async () => {
  await workshop[Symbol.asyncDispose]();
});

/** What a terminal gets to see: of script(1), a real one, stdout and stderr together. */
async function onTerminal(command: string): Promise<string> {
  const { stdout } = await execa('script', ['-qefc', command, '/dev/null'], {
    env: { ...workshop.state.env, TERM: 'xterm' },
    reject: false,
    stdin: 'ignore',
    encoding: 'buffer',
  });
  return Buffer.from(stdout).toString('utf8');
}

/** Everything that a terminal acts on, but line ends, returns and colours. */
const ACTS =
  /(?!\u001b\[[0-9;:]*m)[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u202a-\u202e]/;

test.serial(
  'in the log of a build and in the lines of its failure, only colours pass',
  async (t) => {
    const recipe = `image: ${BUSYBOX}\nsteps: ["printf '${HOSTILE.replaceAll('\\', '\\\\')}\\\\n'; exit 3"]\n`;
    const folder = await workshop.folder({ 'it.yaml': recipe });
    const build = `'${KILN}' build ${folder}/it.yaml --resultdir ${folder}/out`;
    const seen = await onTerminal(build);
    t.regex(seen, /\u001b\[31mred/, 'colours of the log');
    t.regex(seen, /\\x1b\]0;owned\\x07\\x1b\[2J/);
    t.regex(seen, / {2}\| .*\\x1b\[31mred/, 'and no colours in kiln’s own words');
    t.notRegex(seen, ACTS);
    // A pipe gets the log byte for byte, as its file does; kiln's own words are plain there, too.
    const piped = await execa('sh', ['-c', build], { env: workshop.state.env, reject: false });
    t.regex(piped.stdout, /\u001b\]0;owned/);
    t.regex(await readFile(join(folder, 'out', 'build.log'), 'utf8'), /\u001b\]0;owned/);
    t.notRegex(piped.stderr, ACTS);
    t.notRegex(piped.stderr, /\u001b/);
  },
);

test.serial('errors, and the names in them, cannot drive a terminal', async (t) => {
  const name = 'a\u001b]0;owned\u0007\u202eb.yaml';
  const folder = await workshop.folder({
    [name]: 'image: "\\e[2J"\nsteps: 5\n"\\e[31mkey\\x9b": 1\n',
  });
  const [file = ''] = await readdir(folder);
  for (const args of [
    ['build', join(folder, file), '--resultdir', folder],
    ['rpm', 'query', join(folder, file)],
    ['image', 'build', join(folder, file)],
    // A pattern of the shell's finds names that look like options.
    ['rpm', 'query', '--a\u001b[2J'],
    ['run', '--memory', 'a\u001b[2J', '--', 'true'],
    ['a\u001b[2J'],
  ]) {
    const { stderr } = await workshop.state.kiln(args);
    t.regex(String(stderr), /a\\x1b|a\?/, args.join(' '));
    t.notRegex(String(stderr), /\u001b|\u009b|\u202e/, args.join(' '));
  }
});

test.serial('invisible characters are shown as escapes', async (t) => {
  // A soft hyphen, a tag, a deprecated format character, an annotation, a mark of direction, a line separator.
  const unseen = '\u00ad\u{e0041}\u206a\ufff9\u2066\u2028\u180e';
  const { stderr } = await workshop.state.kiln(['rpm', 'query', `/nowhere/${unseen}`]);
  t.notRegex(String(stderr), /[^\x20-\x7e\n]/);
  t.regex(String(stderr), /\\xad\\ue0041\\u206a\\ufff9\\u2066\\u2028\\u180e/);
});

test.serial('messages of kiln give GitHub no commands, on either output', async (t) => {
  const env = { ...workshop.state.env, GITHUB_ACTIONS: 'true' };
  const orders = ['::add-mask::x', ' ::stop-commands::mine', 'a ##[error]b', 'c\n::endgroup::'];
  for (const order of orders) {
    const file = JSON.stringify(order);
    const folder = await workshop.folder({
      'bad.yaml': `image: ${file}\nsteps: [${file}]\n${file}: 1\n`,
      'log.yaml': `image: ${BUSYBOX}\nsteps: [{ name: ${file}, run: "printf '%s' ${file.replaceAll('"', "'")}; exit 3" }]\n`,
    });
    for (const args of [
      ['rpm', 'query', order],
      ['rpm', 'query', '--json', order],
      ['image', 'build', order],
      ['run', '-r', order, '--', 'true'],
      ['run', '--memory', order, '--', 'true'],
      ['build', `${folder}/bad.yaml`, '--resultdir', folder],
      ['build', `${folder}/log.yaml`, '--resultdir', folder, '--json'],
      [order],
    ]) {
      const { stdout, stderr } = await workshop.state.kiln(args, { env });
      for (const text of [String(stdout), String(stderr)]) {
        const runner = new GithubRunner().read(text);
        t.deepEqual(runner.executed, [], `${args.join(' ')}: ${text}`);
        t.false(runner.isStopped, text);
      }
      if (args.includes('query') && args.includes('--json')) {
        t.is(JSON.parse(String(stdout)).file, order);
      }
    }
  }
});

test.serial('a detached job cannot give GitHub commands by its stdout or stderr', async (t) => {
  const { kiln, env } = workshop.state;
  const script = 'echo ::add-mask::a; echo ::add-path::b >&2; echo ::set-env::c; echo ::d::e >&2';
  const started = await kiln(['run', '--detach', '-r', BUSYBOX, '--', 'sh', '-c', script]);
  const id = String(started.stdout).trim();
  await kiln(['wait', id]);
  const { stdout, stderr } = await kiln(['logs', id], { env: { ...env, GITHUB_ACTIONS: 'true' } });
  t.is(stderr, '', 'the runner reads it in no order with the other');
  const runner = new GithubRunner().read(String(stdout));
  t.deepEqual(runner.executed, []);
  t.false(runner.isStopped);
  for (const order of ['add-mask', 'add-path', 'set-env', 'd'])
    t.true(String(stdout).includes(`::${order}::`), order);
});

test.serial('JSON output is plain ASCII, with its content unchanged', async (t) => {
  const text = 'x\u009b2J\u007f\u202e\u{e0041}##[error]';
  const script = `import { printJson } from ${JSON.stringify(join(import.meta.dirname, '../../src/cli/output/print.ts'))};
    printJson(process.stdout, { text: JSON.parse(process.argv[1]) });`;
  const { stdout } = await execa(process.execPath, [
    ...['--input-type=module', '-e', script, JSON.stringify(text)],
  ]);
  t.regex(stdout, /^[\x20-\x7e]*$/);
  t.deepEqual(JSON.parse(stdout), { text });
});

test.serial('a sequence in several pieces is found, and colours end with the log', async (t) => {
  const script = join(workshop.state.paths.root, 'view.mjs');
  await writeFile(
    script,
    `import { LogView } from ${JSON.stringify(join(import.meta.dirname, '../../src/cli/output/print.ts'))};
    const view = new LogView(() => process.stdout);
    for (const byte of Buffer.from('\\u001b[1;31mred\\u001b[2J\\u001b]0;x\\u0007é\\u009b\\n\\u001b[4'))
      view.write(Buffer.from([byte]));
    view[Symbol.dispose]();`,
  );
  const seen = await onTerminal(`'${process.execPath}' '${script}'`);
  t.is(seen, '\u001b[1;31mred\\x1b[2J\\x1b]0;x\\x07é\\x9b\r\n\\x1b[4\u001b[0m');
});

test.serial('GitHub obeys again after a log whose last line has no newline', async (t) => {
  for (const isTTY of [true, false]) {
    const script = `import { LogView } from ${JSON.stringify(join(import.meta.dirname, '../../src/cli/output/print.ts'))};
      const to = { isTTY: ${isTTY}, service: 'github', write: (bytes) => process.stdout.write(bytes) };
      using view = new LogView(() => to);
      view.write(Buffer.from('a line\\n::add-mask::x'));`;
    const { stdout } = await execa(process.execPath, ['--input-type=module', '-e', script]);
    const runner = new GithubRunner().read(stdout);
    t.deepEqual([runner.isStopped, runner.executed], [false, []], stdout);
  }
});

test.serial('GitLab’s markers are found in pieces, and nothing else is changed', async (t) => {
  const log =
    'section_star section_start:1:a\r\u001b[0K section_start section_end:2:a\r\u001b[0K\u00e9 section_e';
  const script = `import { LogView } from ${JSON.stringify(join(import.meta.dirname, '../../src/cli/output/print.ts'))};
    const to = { isTTY: false, service: 'gitlab', write: (bytes) => process.stdout.write(bytes) };
    const view = new LogView(() => to);
    const log = Buffer.from(JSON.parse(process.argv[1]));
    const size = Number(process.argv[2]);
    for (let at = 0; at < log.length; at += size) view.write(log.subarray(at, at + size));
    view[Symbol.dispose]();`;
  t.is(gitlabSections(log).length, 2);
  for (const size of [1, 2, 3, 7, 13, 14, 1000]) {
    const words = ['--input-type=module', '-e', script, JSON.stringify(log), String(size)];
    const { stdout } = await execa(process.execPath, words);
    t.deepEqual(gitlabSections(stdout), []);
    t.is(stdout.replaceAll('\\x3a', ':'), log, `in pieces of ${size}`);
  }
});

test.serial('the output of a command in a sandbox is passed unchanged', async (t) => {
  const run = `'${KILN}' run --tty -r ${IMAGE} -- sh -c "printf '${HOSTILE}'"`;
  t.regex(await onTerminal(run), /\u001b\]0;owned\u0007\u001b\[2J/);
});

test('no command prints to its own process, since the caller may be another', async (t) => {
  const source = join(import.meta.dirname, '../../src');
  const names = await readdir(source, { recursive: true });
  const found: string[] = [];
  for (const name of names) {
    if (!/^(?:cli|serve)\/.*\.ts$/.test(name)) continue;
    const text = await readFile(join(source, name), 'utf8');
    if (/process\.(?:std(?:in|out|err)|env|cwd|exitCode)\b|console\.\w+\(/.test(text))
      found.push(name);
  }
  // errors.ts: which state this process has, in the daemon as elsewhere.
  const own = ['cli/caller/process-caller.ts', 'cli/output/errors.ts'];
  t.deepEqual(found.sort(), own);
});
