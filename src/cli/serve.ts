/** Command lines that the daemon runs for its clients. */
import { Command, CommanderError } from 'commander';
import type { CommandLine } from '../daemon/command-line.ts';
import { KilnError } from '../errors.ts';
import { openExistingImage } from '../image/open.ts';
import { withWaits } from '../kernel/wait-for.ts';
import type { Kiln } from '../kiln.ts';
import { awaitedLater } from '../promise.ts';
import type { HandedStdio, HostStdio } from '../sandbox/streams.ts';
import type { Caller, TextOutput } from './caller.ts';
import { tellingDamage } from './damage.ts';
import type { CliEngine } from './engine.ts';
import { printError } from './errors.ts';
import { exitStatus, KILN_FAILED } from './exit-status.ts';
import { plainText } from './print.ts';
import { type RunContext, RunElsewhere, command as runCommand } from './run.ts';
import { nameUsageErrors } from './usage-errors.ts';

/** What all command lines of a daemon share. */
export interface Shared {
  readonly kiln: Kiln;
  /** Inode of the daemon's mount namespace: paths of callers in another one mean other files. */
  readonly mountNamespace: number;
  /** A sandbox is being removed, which nobody waits for. */
  removing(removal: Promise<void>): void;
  /** A run is over. */
  ended(): void;
}

/** Variables that this daemon does not obey for a single caller; with one, a process of its own does. */
const OWN_PROCESS = ['KILN_URI', 'KILN_TRACE', 'KILN_FROM_SOURCE', 'KILN_PATIENCE'];

/** Options of `run` that need a process of their own, still. */
const ELSEWHERE = ['copyIn', 'egress', 'resultdir', 'keep', 'explain'] as const;

/** Runs one command line, and tells the client how to end. */
export async function serveCommandLine(line: CommandLine, shared: Shared): Promise<void> {
  const { start } = line;
  const [, name, ...rest] = start.argv;
  const own =
    name !== 'run' ||
    start.cwd === '' ||
    start.mountNamespace !== shared.mountNamespace ||
    OWN_PROCESS.some((variable) => start.env[variable] !== undefined);
  if (own) {
    line.sendElsewhere();
    return;
  }
  const caller = new ClientCaller(line);
  using _damage = tellingDamage(rest, (text) => caller.stderr.say(text));
  try {
    const command = runCommand(contextOf(caller, shared));
    command.hook('preAction', (_, action) => {
      const options = action.opts();
      const needed = ELSEWHERE.some((option) => {
        const value: unknown = options[option];
        return Array.isArray(value) ? value.length > 0 : value !== undefined;
      });
      if (needed) throw new RunElsewhere();
    });
    prepare(command, caller);
    const say = (text: string) => caller.stderr.say(text);
    await withWaits({ say }, () => command.parseAsync(rest, { from: 'user' }));
  } catch (error) {
    if (error instanceof RunElsewhere) {
      line.sendElsewhere();
      return;
    }
    if (!(error instanceof CommanderError)) printError(error, caller.stderr);
    caller.exitStatus = exitStatus(error);
  }
  line.exit(caller.end);
}

function contextOf(caller: ClientCaller, { kiln, removing, ended }: Shared): RunContext {
  return {
    caller,
    openEngine: (): CliEngine => ({ ...kiln.engine, [Symbol.asyncDispose]: async () => undefined }),
    pickImage: async ({ paths }, wanted) => {
      // Making an image is work for a process of its own.
      if (wanted === undefined) throw new RunElsewhere();
      const image = await openExistingImage(paths, wanted, caller.cwd());
      if (image === undefined) throw new RunElsewhere();
      return image;
    },
    removed: async (removal) => removing(removal),
    ended,
  };
}

/** Has a command print to its caller, and end by exception. */
function prepare(program: Command, caller: Caller): void {
  program.exitOverride();
  new Command('kiln').enablePositionalOptions().addCommand(program);
  nameUsageErrors(program);
  program.configureOutput({
    writeOut: (text) => caller.stdout.write(text),
    writeErr: (text) => caller.stderr.write(text),
    getOutHelpWidth: () => caller.stdout.columns,
    getErrHelpWidth: () => caller.stderr.columns,
    getOutHasColors: () => false,
    getErrHasColors: () => false,
  });
}

/** A caller at the other end of a connection. */
class ClientCaller implements Caller {
  readonly env: Caller['env'];
  readonly ids: Caller['ids'];
  readonly stdout: TextOutput;
  readonly stderr: TextOutput;
  readonly windowSize: Caller['windowSize'];
  exitStatus: number | undefined;
  readonly #line: CommandLine;

  constructor(line: CommandLine) {
    const { env, terminals, rows, columns } = line.start;
    this.#line = line;
    this.env = env;
    this.ids = callerIds(env, line.identity);
    const output = (fd: 1 | 2): TextOutput => ({
      isTTY: terminals[fd],
      columns: columns || 80,
      write: (text) => line.write(fd, text),
      say: (text) => line.write(fd, plainText(text)),
    });
    this.stdout = output(1);
    this.stderr = output(2);
    this.windowSize = { rows: rows || 24, columns: columns || 80 };
  }

  variable(name: string): string | undefined {
    return this.env[name];
  }

  cwd(): string {
    return this.#line.start.cwd;
  }

  get end(): { readonly status: number } | { readonly signal: NodeJS.Signals } {
    return { status: this.exitStatus ?? KILN_FAILED };
  }

  onSignal(
    signals: readonly NodeJS.Signals[],
    listener: (signal: NodeJS.Signals) => void,
  ): Disposable {
    const heard = (signal: NodeJS.Signals) => {
      if (signals.includes(signal)) listener(signal);
    };
    // A client that is gone ends what it has asked for, like one that was told to twice.
    const gone = () => {
      listener('SIGTERM');
      listener('SIGTERM');
    };
    this.#line.on('signal', heard).on('gone', gone);
    if (this.#line.gone) setImmediate(gone);
    return {
      [Symbol.dispose]: () => {
        this.#line.off('signal', heard).off('gone', gone);
      },
    };
  }

  readonly handOver = (stdio: HostStdio): HandedStdio => {
    const line = this.#line;
    if ('terminal' in stdio) line.passTerminal(stdio.terminal);
    else line.passStdio(stdio.stdin, stdio.stdout, stdio.stderr);
    return {
      onMoved: (listener) => void line.on('moved', listener),
      drained: awaitedLater(
        new Promise((resolve, reject) => {
          // A client that is gone has closed its ends.
          line.once('gone', resolve);
          line.once('drained', (errno) => {
            if (errno === undefined) resolve();
            else reject(new KilnError('E_SYSCALL', `write: ${errno}`));
          });
        }),
      ),
    };
  };
}

/** Of sudo's caller, where root calls for one. */
function callerIds(
  env: Caller['env'],
  identity: { readonly uid: number; readonly gid: number },
): Caller['ids'] {
  const [uid, gid] = [Number(env.SUDO_UID), Number(env.SUDO_GID)];
  if (identity.uid === 0 && uid > 0 && gid > 0) return { uid, gid };
  return { uid: identity.uid, gid: identity.gid };
}
