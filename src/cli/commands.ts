/** All commands, and how a command line finds its own. Long, because each has its row here. */
import { type Command, CommanderError } from 'commander';
import { KilnError } from '../errors.ts';
import { acting, currentAction } from '../events/action.ts';
import { KILN_VERSION } from '../host/state/paths.ts';
import { span } from '../host/trace/trace.ts';
import { setDownloadWays } from '../packages/repository/transport/reach.ts';
import { actionOf } from './caller/action.ts';
import { type Caller, requireHost } from './caller/caller.ts';
import { fillDefaults, repositoriesOf } from './config.ts';
import { KilnCommand, wordsOf } from './options/command.ts';
import { commandHint, optionHint } from './other-words.ts';
import { exitStatus, KILN_FAILED, printError, tellingDamage } from './output/errors.ts';
import { plainText } from './output/print.ts';
import { guard } from './users/user-guard.ts';

type MakeCommand = (caller: Caller) => Command;

/** A command. Its module is imported only when it is called, so that kiln starts quickly. */
type CommandEntry = readonly [
  name: string,
  summary: string,
  load: () => Promise<{ readonly command: MakeCommand }>,
];

/** One of the commands of a module that has several. */
async function one<Name extends string>(
  module: Promise<{ readonly [Each in Name]: MakeCommand }>,
  name: Name,
) {
  return { command: (await module)[name] };
}

const shell = () => import('./shell.ts');
const jobs = () => import('./job/commands.ts');
const sandboxes = () => import('./sandboxes.ts');
const forks = () => import('./fork.ts');
const changes = () => import('./changes.ts');
const live = () => import('./live.ts');
const completion = () => import('./completion.ts');

const commands: readonly CommandEntry[] = [
  ['run', 'run one command in a new sandbox', () => import('./run.ts')],
  ['shell', 'open a shell in a new sandbox, or in one that runs or was kept', shell],
  [
    'exec',
    'run a further command in a sandbox that runs or was kept',
    () => one(shell(), 'execCommand'),
  ],
  ['cp', 'copy files into a sandbox or out of it', () => import('./copy.ts')],
  ['diff', 'show what a kept sandbox has changed', () => one(changes(), 'diffCommand')],
  ['apply', 'take over what a kept sandbox has changed', () => one(changes(), 'applyCommand')],
  ['discard', 'throw away what a kept sandbox has changed', () => one(changes(), 'discardCommand')],
  ['snapshot', 'keep the files of a kept sandbox', () => import('./snapshot.ts')],
  ['fork', 'make sandboxes from a snapshot', () => one(forks(), 'forkCommand')],
  ['rollback', 'go back to a snapshot', () => one(forks(), 'rollbackCommand')],
  ['build', 'build RPM packages, or what a recipe describes', () => import('./rpmbuild/build.ts')],
  ['farm', 'build chains on a pool of machines', () => import('./farm/command.ts')],
  [
    'image',
    'build, lock, list, show, remove, export and import images',
    () => import('./images/image.ts'),
  ],
  ['report', 'make report.html of a result folder anew', () => one(jobs(), 'reportCommand')],
  ['ci', 'run the jobs of GitLab’s and GitHub’s runners', loadCi],
  ['rpm', 'query, verify and unpack RPM files', () => import('./rpm/command.ts')],
  ['service', 'run long-lived services', () => import('./service/command.ts')],
  ['attach', 'show what a detached job writes, and type to it', () => one(jobs(), 'attachCommand')],
  ['wait', 'wait until detached jobs have ended', () => one(jobs(), 'waitCommand')],
  ['logs', 'print what a detached job has written', () => one(jobs(), 'logsCommand')],
  ['results', 'copy the results of a detached job', () => one(jobs(), 'resultsCommand')],
  ['ps', 'list sandboxes and detached jobs', () => one(sandboxes(), 'psCommand')],
  [
    'inspect',
    'print all that is known of a sandbox, a job or an image',
    () => import('./inspect.ts'),
  ],
  ['stats', 'show what sandboxes use, again and again', () => one(live(), 'statsCommand')],
  ['top', 'list the processes in a sandbox', () => one(live(), 'topCommand')],
  [
    'stop',
    'end sandboxes and detached jobs in their own way, or after a time',
    () => one(import('./stop.ts'), 'stopCommand'),
  ],
  ['kill', 'destroy sandboxes, end detached jobs', () => one(sandboxes(), 'killCommand')],
  ['park', 'park sandboxes for the next commands', () => one(sandboxes(), 'parkCommand')],
  ['events', 'print who ran what, who was refused, what was reached', () => import('./events.ts')],
  ['metrics', 'print or serve numbers for Prometheus', () => import('./metrics.ts')],
  ['mcp', 'serve sandboxes to an assistant', () => one(import('./mcp/command.ts'), 'mcpCommand')],
  ['df', 'show what takes space', () => one(import('./df.ts'), 'dfCommand')],
  ['gc', 'remove what nobody uses any more', () => one(import('./gc.ts'), 'gcCommand')],
  ['user', 'list users, remove what kiln keeps of one', () => import('./users/user.ts')],
  ['config', 'show and check kiln.yaml', () => import('./config.ts')],
  ['doctor', 'check whether this host can run sandboxes', () => import('./doctor.ts')],
  [
    'completion',
    'print the completion script of a shell',
    () => one(completion(), 'completionCommand'),
  ],
  ['version', 'print the version of kiln', async () => ({ command: versionCommand })],
];

const hidden: readonly CommandEntry[] = [
  ['complete', 'list what a shell completes a word to', () => one(completion(), 'completeCommand')],
  ['varlink', 'carry calls of the API', async () => ({ command: varlinkCommand })],
];

async function loadCi() {
  const { gitlabCommand } = await import('./ci/gitlab.ts');
  const { githubCommand } = await import('./ci/github.ts');
  const command = (caller: Caller) =>
    new KilnCommand('ci')
      .description('Run the jobs of CI runners in sandboxes; see docs/ci-runners.md.')
      .enablePositionalOptions()
      .addCommand(gitlabCommand(caller, runKiln))
      .addCommand(githubCommand(caller, runKiln));
  return { command };
}

/** As many programs have it, beside `--version`. */
function versionCommand({ stdout }: Caller): KilnCommand {
  return new KilnCommand('version')
    .description('Print the version of kiln, as --version does.')
    .examples('kiln version')
    .action(() => stdout.say(`${KILN_VERSION}\n`));
}

/** A daemon's worker answers it before commands are looked for: src/serve/calls/client.ts. */
function varlinkCommand({ env }: Caller): KilnCommand {
  return new KilnCommand('varlink')
    .description('Carry calls of the API (Varlink) on stdin and stdout, for programs: docs/api.md.')
    .action(() => {
      requireHost(env);
      throw new KilnError('E_NO_DAEMON', 'no kilnd answers these calls', {
        hint: 'call it without KILN_FROM_SOURCE, in the mount namespace of kilnd',
      });
    });
}

const EXAMPLES = `
Examples:
  kiln image build debian-build                     make an image from a recipe
  kiln run -r debian-build -- gcc --version         run a command in it
  kiln run -r debian-build --bind .:/work --workdir /work -- make
  kiln shell -r debian-build                        open a shell in it
  kiln doctor                                       check this host

“kiln COMMAND --help” shows all options.`;

function overview(those: readonly Command[]): Command {
  const program = new KilnCommand('kiln')
    .enablePositionalOptions()
    .description(
      'Run a command or a build in a locked-down libvirt-lxc sandbox on an image made of RPM packages.',
    )
    .version(KILN_VERSION)
    // Read before anything else is: src/cli/remote/remote.ts.
    .option('--host <url>', 'run the command on the machine ssh://USER@HOST[:PORT], or KILN_HOST')
    .addHelpText('after', EXAMPLES);
  for (const command of those) program.addCommand(command);
  program.command('mock').description('accept the command line of mock; also called kiln-mock');
  // Without this, help would describe the entries of the list, which have no options: see helpRequest.
  program.helpCommand('help [command]', 'show the options of a command');
  return program;
}

export async function wholeKiln(caller: Caller): Promise<Command> {
  const loaded = commands.map(async ([, summary, load]) =>
    (await load()).command(caller).summary(summary),
  );
  return overview(await Promise.all(loaded));
}

export async function loadCommands(): Promise<void> {
  await Promise.all(commands.map(([, , load]) => load()));
}

export function prepare(program: Command, caller: Caller): void {
  const { stdout, stderr } = caller;
  program.exitOverride();
  program.configureOutput({
    writeOut: (text) => stdout.write(text),
    writeErr: (text) => stderr.say(text),
    getOutHelpWidth: () => stdout.columns,
    getErrHelpWidth: () => stderr.columns,
    getOutHasColors: () => false,
    getErrHasColors: () => false,
    outputError: (text, write) => {
      const lines = plainText(text).trimEnd();
      const [, said = '', near] = /^(.*?)(?:\n\(Did you mean (.*)\?\))?$/s.exec(lines) ?? [];
      // A value may have ends of lines.
      const first = said.replaceAll('\n', ' ');
      const [, unknown = ''] = /^error: unknown command '(.+)'$/.exec(first) ?? [];
      const [, option = ''] = /^error: unknown option '(--?[\w-]+)/.exec(first) ?? [];
      const above = nameOf(program).split(' ').slice(1);
      const hint =
        (unknown === ''
          ? optionHint(above.join(' '), option)
          : commandHint([...above, unknown].join(' '))) ??
        (near === undefined ? undefined : `did you mean ${near}?`);
      write(`kiln: ${first.replace(/^(?:error|kiln): /, '')} [E_ARGUMENT]\n`);
      const ask = hint === undefined || hint.endsWith('?') ? hint : `${hint};`;
      write(
        `  hint: ${ask === undefined ? '' : `${ask} `}\`${nameOf(program)} --help\` tells more\n`,
      );
    },
  });
  for (const sub of program.commands) prepare(sub, caller);
}

function nameOf(command: Command): string {
  return command.parent === null ? command.name() : `${nameOf(command.parent)} ${command.name()}`;
}

async function programFor(name: string | undefined, caller: Caller): Promise<Command> {
  const entry = [...commands, ...hidden].find(([known]) => known === name);
  const loading = span('load the command');
  const program =
    entry === undefined
      ? overview(commands.map(([known, summary]) => new KilnCommand(known).description(summary)))
      : new KilnCommand('kiln')
          // Options after a sandboxed command's name belong to that command.
          .enablePositionalOptions()
          .addCommand((await entry[2]()).command(caller).summary(entry[1]));
  loading[Symbol.dispose]();
  prepare(program, caller);
  return program;
}

/** Commands with rows that kiln.yaml may have a default for. */
const TAKING_DEFAULTS: readonly string[] = ['run', 'shell', 'build', 'service', 'mcp'];

/** What a command works on: where it names nothing, its options tell (`gc --max-age 4w`). */
function subjectOf(action: Command): readonly string[] {
  if (action.args.length > 0 || !(action instanceof KilnCommand)) return action.args;
  return action.written.flatMap(({ flag, text }) => (text === null ? [flag] : [flag, text]));
}

async function runKiln(argv: readonly string[], caller: Caller): Promise<void> {
  const program = await programFor(argv[0], caller);
  if (TAKING_DEFAULTS.includes(argv[0] ?? '')) fillDefaults(program, caller);
  program.hook('preAction', (_, action) => {
    currentAction()?.named(wordsOf(action), subjectOf(action));
  });
  guard(program, caller);
  if (argv.length === 0) program.help();
  program.hook('preAction', (_, action) => {
    caller.isQuiet = action.opts().quiet === true;
  });
  await program.parseAsync([...argv], { from: 'user' });
}

class NotRun extends Error {}

/**
 * Reads a command line that somebody else is to run, or that is to be read again.
 * @throws CommanderError for a usage error, and for help, which has been printed then
 */
export async function parsedCommand(
  given: readonly string[],
  caller: Caller,
): Promise<KilnCommand> {
  const argv = helpRequest(given);
  const program = await programFor(argv[0], caller);
  if (argv.length === 0) program.help();
  let parsed: Command | undefined;
  program.hook('preAction', (_, action) => {
    parsed = action;
    throw new NotRun();
  });
  try {
    await program.parseAsync([...argv], { from: 'user' });
  } catch (error) {
    if (!(error instanceof NotRun)) throw error;
  }
  return parsed instanceof KilnCommand ? parsed : program.help();
}

/** The words of a command line, with those of the file that `--file` of `kiln run` names. @throws as parsedCommand() */
export async function withJobFile(
  argv: readonly string[],
  caller: Caller,
): Promise<readonly string[]> {
  if (argv[0] !== 'run' || !argv.some((word) => /^--file(?:=|$)/.test(word))) return argv;
  const { wordsWithFile } = await import('./job/job-file.ts');
  return await wordsWithFile(argv, await parsedCommand(argv, caller), caller);
}

function helpRequest(argv: readonly string[]): readonly string[] {
  const [first, name, ...more] = argv;
  if (first !== 'help') return argv;
  if (name === undefined) return ['--help'];
  const known = name === 'mock' || [...commands, ...hidden].some(([known]) => known === name);
  return known ? [name, ...more, '--help'] : [name];
}

export async function runCommandLine(given: readonly string[], caller: Caller): Promise<void> {
  await acting(actionOf(caller, 'command'), async () => {
    await runAction(given, caller);
    currentAction()?.exit(caller.exitStatus ?? 0);
  });
}

async function runAction(given: readonly string[], caller: Caller): Promise<void> {
  try {
    const argv = helpRequest(given);
    if (caller.isOnly) {
      setDownloadWays(async () => repositoriesOf(caller));
    }
    using _ = tellingDamage(argv[0] === 'run' ? argv : [], (text) => caller.stderr.say(text));
    if (argv[0] === 'mock') {
      currentAction()?.named('mock', []);
      await (await import('./mock/main.ts')).main(argv.slice(1), caller);
    } else await runKiln(await withJobFile(argv, caller), caller);
  } catch (error) {
    if (!(error instanceof CommanderError)) printError(error, caller.stderr);
    caller.exitStatus = exitStatus(error);
  }
  await deliver(caller);
}

/** Once a command has ended, whatever came of it. */
export async function deliver(caller: Caller): Promise<void> {
  try {
    await caller.paths.deliver();
  } catch (error) {
    printError(error, caller.stderr);
    caller.exitStatus ||= KILN_FAILED;
  }
}

export interface RemoteCommandLine {
  readonly host: string;
  readonly argv: readonly string[];
}

/** Commands that tell about this machine or read its files: KILN_HOST does not send them away. */
const LOCAL: ReadonlySet<string> = new Set([
  ...['doctor', 'help', '--help', '-h', '--version', '-V', 'rpm', 'report', 'mock'],
  ...['complete', 'completion', 'mcp', 'version'],
]);

export function remoteHost(
  argv: readonly string[],
  usual: string | undefined,
): RemoteCommandLine | undefined {
  const [first = '', second = '', ...rest] = argv;
  if (first === '--host') return { host: second, argv: rest };
  if (first.startsWith('--host=')) {
    return { host: first.slice('--host='.length), argv: argv.slice(1) };
  }
  return usual && first !== '' && !LOCAL.has(first) ? { host: usual, argv } : undefined;
}
