import type { Socket } from 'node:net';
import type { Writable } from 'node:stream';
import { Command } from 'commander';
import { defined } from '../../defined.ts';
import { awaitedLater } from '../../promise.ts';
import { readService } from '../../service/lifecycle/store.ts';
import type {
  ExecuteAnswer,
  ExecuteControl,
  ExecuteRequest,
} from '../../service/supervisor/execute.ts';
import { encodeFrame, FRAME, onFrames, sendMessage } from '../../service/supervisor/frames.ts';
import { connectSupervisor, unwired } from '../../service/supervisor/supervisor-client.ts';
import { type Caller, hasTerminal, type TextInput } from '../caller/caller.ts';
import { parseEnvironment } from '../options/values.ts';
import { commandStatus } from '../output/exit-status.ts';
import { notRunning } from './life.ts';
import { repeated } from './options.ts';

const SHELL = ['/bin/sh', '-c', 'if command -v bash >/dev/null; then exec bash -l; fi; exec sh -l'];

interface ExecuteOptions {
  readonly user?: string;
  readonly workdir?: string;
  readonly env: readonly (readonly [string, string])[];
  readonly tty?: boolean;
}

function withOptions(command: Command, caller: Caller): Command {
  return command
    .option(
      '--user <user>',
      'run the command as NAME, UID or UID:GID; by default root of the sandbox',
    )
    .option('--workdir <dir>', 'start the command in this directory of the sandbox')
    .addOption(
      repeated('--env <name=value>', 'set an environment variable', (text) =>
        parseEnvironment(text, caller.variable),
      ),
    );
}

/** `kiln service execute`. */
export function executeCommand(caller: Caller): Command {
  const it = new Command('execute')
    .alias('exec')
    .description('Run a command in a running service; kiln exits with the status of the command.')
    .usage('[options] NAME [--] COMMAND [ARGUMENT…]')
    .argument('<service>', 'the name of the service')
    .argument('<command...>', 'the command and its arguments')
    .option('-t, --tty', 'give the command a terminal')
    .addHelpText(
      'after',
      '\nExamples:\n  kiln service execute apache1 -- ip addr\n  kiln service execute db -- mariadb -e "show databases"',
    );
  return withOptions(it, caller).action((name: string, argv: string[], options: ExecuteOptions) =>
    execute(name, argv, options, caller),
  );
}

/** `kiln service connect`. */
export function connectCommand(caller: Caller): Command {
  const it = new Command('connect')
    .description('Open a shell in a running service.')
    .argument('<service>', 'the name of the service')
    .addHelpText(
      'after',
      '\nExamples:\n  kiln service connect apache1\n  kiln service connect --user postgres pg',
    );
  return withOptions(it, caller).action((name: string, options: ExecuteOptions) => {
    const tty = hasTerminal(caller);
    return execute(name, SHELL, { ...options, tty }, caller);
  });
}

async function execute(
  name: string,
  argv: readonly string[],
  options: ExecuteOptions,
  caller: Caller,
): Promise<void> {
  await using engine = caller.openEngine();
  const { files } = await readService(engine.paths, name);
  const socket = await connectSupervisor(files);
  if (socket === undefined) throw notRunning(name);
  const { TERM } = caller.env;
  const env = { ...(options.tty && TERM ? { TERM } : {}), ...Object.fromEntries(options.env) };
  const command: ExecuteRequest = {
    argv,
    env,
    ...defined({ user: options.user, workdir: options.workdir }),
    ...(options.tty === true ? { terminal: caller.windowSize } : {}),
  };
  try {
    using forwarding = new Forwarding(socket, options.tty === true, caller);
    const ended = awaitedLater(converse(socket, forwarding, caller));
    sendMessage(socket, { do: 'execute', command });
    const { exitCode, signal } = await ended;
    caller.exitStatus = commandStatus({ exitCode, signal, timeLimit: null });
  } finally {
    socket.destroy();
  }
}

type Ended = Extract<ExecuteAnswer, { exitCode: unknown }>;

/** Copies output and waits for the end. */
function converse(socket: Socket, forwarding: Forwarding, caller: Caller): Promise<Ended> {
  return new Promise((resolve, reject) => {
    onFrames(socket, ({ kind, body }) => {
      if (kind === FRAME.data) show(socket, caller.stdout.stream, body);
      else if (kind === FRAME.errorData) show(socket, caller.stderr.stream, body);
      else if (kind === FRAME.message) {
        const answer = JSON.parse(body.toString('utf8')) as ExecuteAnswer;
        if ('error' in answer) reject(unwired(answer.error));
        else if ('exitCode' in answer) resolve(answer);
        else forwarding.pumpInput();
      }
    });
    socket.on('error', reject);
    // The service was stopped meanwhile, and the command with it.
    socket.once('close', () => resolve({ exitCode: null, signal: 'SIGKILL' }));
  });
}

function show(socket: Socket, to: Writable, body: Buffer): void {
  if (to.write(body)) return;
  socket.pause();
  to.once('drain', () => socket.resume());
}

/** Forwards stdin, signals and window sizes; disposing ends that and resets the terminal. */
class Forwarding implements Disposable {
  readonly #socket: Socket;
  readonly #listening: Disposable[];
  // The command may have a terminal although kiln has none: in a script, or under cron.
  readonly #input: TextInput;

  constructor(socket: Socket, tty: boolean, caller: Caller) {
    this.#socket = socket;
    const tell = (control: ExecuteControl) => sendMessage(socket, control, FRAME.control);
    const signals = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const;
    this.#listening = [caller.onSignal(signals, (signal) => tell({ signal }))];
    if (tty) this.#listening.push(caller.onSignal(['SIGWINCH'], () => tell(caller.windowSize)));
    this.#input = caller.readInput({ raw: tty });
  }

  pumpInput(): void {
    const { stream } = this.#input;
    const socket = this.#socket;
    stream.on('data', (chunk: Buffer) => {
      if (socket.write(encodeFrame(FRAME.data, chunk))) return;
      stream.pause();
      socket.once('drain', () => stream.resume());
    });
    stream.once('end', () => socket.write(encodeFrame(FRAME.end, Buffer.alloc(0))));
  }

  [Symbol.dispose](): void {
    for (const one of this.#listening) one[Symbol.dispose]();
    this.#input[Symbol.dispose]();
  }
}
