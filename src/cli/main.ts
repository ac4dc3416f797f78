import './last-net.ts';
import { Command, CommanderError } from 'commander';
import { hasAbandonedCalls } from '../kernel/abandoned-calls.ts';
import { ownArguments } from '../kernel/own-node.ts';
import { takeUmask } from '../kernel/own-umask.ts';
import { KILN_VERSION } from '../state/version.ts';
import { describeStrayErrors } from '../stray-errors.ts';
import { span } from '../trace/trace.ts';
import { tellingDamage } from './damage.ts';
import { describeError, printError } from './errors.ts';
import { exitStatus, KILN_FAILED } from './exit-status.ts';
import { say } from './print.ts';
import { watchStdout } from './stdout.ts';
import { nameUsageErrors } from './usage-errors.ts';

/** One command: its module is imported only when it is called, so that start-up stays short. */
interface CommandEntry {
  readonly name: string;
  readonly summary: string;
  readonly load: () => Promise<{ command(): Command }>;
}

const commands: readonly CommandEntry[] = [
  {
    name: 'run',
    summary: 'run one command in a sandbox that is gone afterwards',
    load: () => import('./run.ts'),
  },
  {
    name: 'shell',
    summary: 'an interactive shell in a new sandbox, or in a kept one',
    load: () => import('./shell.ts'),
  },
  {
    name: 'build',
    summary: 'build an RPM package, or what a recipe describes',
    load: () => import('./build.ts'),
  },
  {
    name: 'image',
    summary: 'build, lock, list, show and remove images',
    load: () => import('./image.ts'),
  },
  {
    name: 'rpm',
    summary: 'query, verify and unpack RPM files',
    load: () => import('./rpm.ts'),
  },
  {
    name: 'service',
    summary: 'long-running services on images',
    load: () => import('./service.ts'),
  },
  { name: 'ps', summary: 'list sandboxes', load: () => import('./ps.ts') },
  { name: 'kill', summary: 'destroy sandboxes', load: () => import('./kill.ts') },
  { name: 'park', summary: 'start sandboxes ahead', load: () => import('./park.ts') },
  { name: 'gc', summary: 'clean up what nobody uses', load: () => import('./gc.ts') },
  {
    name: 'doctor',
    summary: 'check whether this host can run sandboxes',
    load: () => import('./doctor.ts'),
  },
];

const EXAMPLES = `
Examples:
  kiln image build debian-build                     make an image from a recipe
  kiln run -r debian-build -- gcc --version         run a command in it
  kiln run -r debian-build --bind .:/work --workdir /work -- make
  kiln shell -r debian-build                        look around
  kiln doctor                                       is this host ready?

“kiln COMMAND --help” tells more.`;

function overview(): Command {
  const program = new Command('kiln')
    .description('Run one command or one build in a sealed libvirt-lxc box made of RPM payloads.')
    .version(KILN_VERSION)
    .addHelpText('after', EXAMPLES);
  for (const entry of commands) program.command(entry.name).description(entry.summary);
  program.command('mock').description('mock’s own command line, also as kiln-mock');
  // Else it would describe the list's entries, which have no options: see helpRequest.
  program.helpCommand('help [command]', 'show a command’s options');
  return program;
}

async function main(argv: readonly string[]): Promise<void> {
  const name = argv[0];
  const entry = commands.find((candidate) => candidate.name === name);
  // Positional options: what follows a sandboxed command's name is that command's own.
  const loading = span('load the command');
  const program =
    entry === undefined
      ? overview()
      : new Command('kiln')
          .enablePositionalOptions()
          .addCommand((await entry.load()).command().summary(entry.summary));
  loading[Symbol.dispose]();
  exitByException(program);
  nameUsageErrors(program);
  if (argv.length === 0) program.help();
  await program.parseAsync([...argv], { from: 'user' });
}

function exitByException(command: Command): void {
  command.exitOverride();
  for (const sub of command.commands) exitByException(sub);
}

/** `kiln help COMMAND` is `kiln COMMAND --help`, of one below it as well. */
function helpRequest(argv: readonly string[]): readonly string[] {
  const [first, name, ...more] = argv;
  if (first !== 'help') return argv;
  if (name === undefined) return ['--help'];
  const known = name === 'mock' || commands.some((entry) => entry.name === name);
  return known ? [name, ...more, '--help'] : [name];
}

/** bin/kiln-mock has a command line that is read by mock's rules. */
async function dispatch(given: readonly string[]): Promise<void> {
  const argv = helpRequest(given);
  tellingDamage(argv[0] === 'run' ? argv : [], say);
  // `run` has its own answer.
  if (argv[0] !== 'run' || argv.includes('--help') || argv.includes('-h')) watchStdout();
  if (argv[0] === 'mock') await (await import('./mock/main.ts')).main(argv.slice(1));
  else await main(argv);
}

describeStrayErrors(describeError);

takeUmask();

// Node ends with status 0 once nothing can happen any more, even with work that has not come to an
// end. That must not look like success.
let settled = false;
process.on('beforeExit', () => {
  // Nothing is left to do: the kernel takes the process apart faster than Node does.
  if (settled) process.exit();
  say('kiln: internal error: it stopped before its work was done; please report it\n');
  process.exitCode = KILN_FAILED;
});

// Not awaited: the bundle is CommonJS, which starts faster and has no top-level await.
dispatch(ownArguments())
  .catch((error: unknown) => {
    if (!(error instanceof CommanderError)) printError(error);
    process.exitCode = exitStatus(error);
  })
  .finally(() => {
    settled = true;
    // They would keep the process alive until whoever hangs answers.
    if (hasAbandonedCalls()) process.exit();
  });
