/** kiln's command line: the commands, run for a caller. */
import { Command, CommanderError } from 'commander';
import { KILN_VERSION } from '../host/state/paths.ts';
import { span } from '../host/trace/trace.ts';
import type { Caller } from './caller/caller.ts';
import { tellingDamage } from './output/damage.ts';
import { printError } from './output/errors.ts';
import { exitStatus } from './output/exit-status.ts';
import { nameUsageErrors } from './output/usage-errors.ts';
import type { CommandDescription } from './reference/describe.ts';

/** One command. Its module is imported only when it is called, so that kiln starts quickly. */
interface CommandEntry {
  readonly name: string;
  readonly summary: string;
  readonly load: () => Promise<{ command(caller: Caller): Command }>;
  /** True for commands that programs call, not people. */
  readonly hidden?: boolean;
}

const commands: readonly CommandEntry[] = [
  {
    name: 'run',
    summary: 'run one command in a new sandbox',
    load: () => import('./run.ts'),
  },
  {
    name: 'shell',
    summary: 'open a shell in a new sandbox, or in a kept one',
    load: () => import('./shell.ts'),
  },
  {
    name: 'build',
    summary: 'build RPM packages, or what a recipe describes',
    load: () => import('./rpmbuild/build.ts'),
  },
  {
    name: 'farm',
    summary: 'build chains on a pool of machines',
    load: () => import('./farm/command.ts'),
  },
  {
    name: 'image',
    summary: 'build, lock, list, show, remove, export and import images',
    load: () => import('./images/image.ts'),
  },
  {
    name: 'report',
    summary: 'make report.html of a result directory anew',
    load: () => import('./report.ts'),
  },
  {
    name: 'rpm',
    summary: 'query, verify and unpack RPM files',
    load: () => import('./rpm.ts'),
  },
  {
    name: 'service',
    summary: 'run long-lived services',
    load: () => import('./service.ts'),
  },
  {
    name: 'attach',
    summary: 'show what a detached job writes, and type to it',
    load: () => import('./job/attach.ts'),
  },
  {
    name: 'wait',
    summary: 'wait until detached jobs have ended',
    load: () => import('./job/wait.ts'),
  },
  {
    name: 'logs',
    summary: 'print what a detached job has written',
    load: () => import('./job/logs.ts'),
  },
  {
    name: 'results',
    summary: 'copy the results of a detached job',
    load: () => import('./job/results.ts'),
  },
  { name: 'ps', summary: 'list sandboxes and detached jobs', load: () => import('./ps.ts') },
  {
    name: 'kill',
    summary: 'destroy sandboxes, end detached jobs',
    load: () => import('./kill.ts'),
  },
  { name: 'park', summary: 'start sandboxes ahead of time', load: () => import('./park.ts') },
  { name: 'df', summary: 'show what takes space', load: () => import('./df.ts') },
  { name: 'gc', summary: 'remove what nobody uses any more', load: () => import('./gc.ts') },
  {
    name: 'config',
    summary: 'show and check what users may',
    load: () => import('./config.ts'),
  },
  {
    name: 'doctor',
    summary: 'check whether this host can run sandboxes',
    load: () => import('./doctor.ts'),
  },
  {
    name: 'completion',
    summary: 'print the completion script of a shell',
    load: async () => {
      const { command } = await import('./completion.ts');
      return { command: (caller) => command(caller, describeKiln) };
    },
  },
  {
    name: 'complete',
    summary: 'list what a shell completes a word to',
    load: () => import('./complete.ts'),
    hidden: true,
  },
];

const SUMMARY = 'run a command or a build in a locked-down sandbox';

const EXAMPLES = `
Examples:
  kiln image build debian-build                     make an image from a recipe
  kiln run -r debian-build -- gcc --version         run a command in it
  kiln run -r debian-build --bind .:/work --workdir /work -- make
  kiln shell -r debian-build                        open a shell in it
  kiln doctor                                       check this host

“kiln COMMAND --help” shows all options.`;

/** kiln itself with these commands. */
function overview(those: readonly Command[]): Command {
  const program = new Command('kiln')
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

/** The list of `kiln --help`: names and summaries. */
function summaries(): Command[] {
  return commands
    .filter(({ hidden }) => hidden !== true)
    .map(({ name, summary }) => new Command(name).description(summary));
}

/** kiln with every command that people have, and all options of each. */
export async function wholeKiln(caller: Caller): Promise<Command> {
  const shown = commands.filter(({ hidden }) => hidden !== true);
  const loaded = shown.map(async ({ load, summary }) =>
    (await load()).command(caller).summary(summary),
  );
  return overview(await Promise.all(loaded));
}

/** The same, for what is written about it. */
export async function describeKiln(caller: Caller): Promise<CommandDescription> {
  const { describe, describeMock } = await import('./reference/describe.ts');
  const kiln = describe(await wholeKiln(caller), [], SUMMARY);
  const isMock = ({ words }: CommandDescription) => words[0] === 'mock';
  return {
    ...kiln,
    commands: kiln.commands.map((command) => (isMock(command) ? describeMock() : command)),
  };
}

/** Loads the code of every command in a process that waits for one. */
export async function loadCommands(): Promise<void> {
  await Promise.all(commands.map(({ load }) => load()));
}

/** Makes a program print to its caller, and end by exception. */
export function prepare(program: Command, { stdout, stderr }: Caller): void {
  program.exitOverride();
  program.configureOutput({
    writeOut: (text) => stdout.write(text),
    writeErr: (text) => stderr.write(text),
    getOutHelpWidth: () => stdout.columns,
    getErrHelpWidth: () => stderr.columns,
    getOutHasColors: () => false,
    getErrHasColors: () => false,
  });
  for (const sub of program.commands) prepare(sub, { stdout, stderr } as Caller);
}

/** The program that reads a command line: kiln with the one command that it names. */
async function programFor(name: string | undefined, caller: Caller): Promise<Command> {
  const entry = commands.find((candidate) => candidate.name === name);
  // Options after a sandboxed command's name belong to that command.
  const loading = span('load the command');
  const program =
    entry === undefined
      ? overview(summaries())
      : new Command('kiln')
          .enablePositionalOptions()
          .addCommand((await entry.load()).command(caller).summary(entry.summary));
  loading[Symbol.dispose]();
  prepare(program, caller);
  nameUsageErrors(program);
  return program;
}

async function runKiln(argv: readonly string[], caller: Caller): Promise<void> {
  const program = await programFor(argv[0], caller);
  // Loaded late, because few callers need it and it knows all commands.
  if (caller.user !== undefined)
    (await import('./users/user-guard.ts')).guard(program, caller.user);
  if (argv.length === 0) program.help();
  await program.parseAsync([...argv], { from: 'user' });
}

/** Thrown in place of a command's action. */
class NotRun extends Error {}

/**
 * Reads a command line that somebody else is to run. `prepareFor` sees the program before that.
 * @throws CommanderError for a usage error, and for help, which has been printed then
 */
export async function parsedCommand(
  given: readonly string[],
  caller: Caller,
  prepareFor: (program: Command) => void,
): Promise<Command> {
  const argv = helpRequest(given);
  const program = await programFor(argv[0], caller);
  prepareFor(program);
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
  return parsed ?? program.help();
}

/** Turns `kiln help COMMAND` into `kiln COMMAND --help`, for subcommands as well. */
function helpRequest(argv: readonly string[]): readonly string[] {
  const [first, name, ...more] = argv;
  if (first !== 'help') return argv;
  if (name === undefined) return ['--help'];
  const known = name === 'mock' || commands.some((entry) => entry.name === name);
  return known ? [name, ...more, '--help'] : [name];
}

/** Runs one command line to its end. Failures are printed; the exit status is in `caller`. */
export async function runCommandLine(given: readonly string[], caller: Caller): Promise<void> {
  try {
    const argv = helpRequest(given);
    using _ = tellingDamage(argv[0] === 'run' ? argv : [], (text) => caller.stderr.say(text));
    // mock's command line follows mock's rules.
    if (argv[0] === 'mock') await (await import('./mock/main.ts')).main(argv.slice(1), caller);
    else await runKiln(argv, caller);
  } catch (error) {
    if (!(error instanceof CommanderError)) printError(error, caller.stderr);
    caller.exitStatus = exitStatus(error);
  }
}
