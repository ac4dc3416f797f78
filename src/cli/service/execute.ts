import type { Socket } from 'node:net';
import { Command } from 'commander';
import { callerVariable } from '../../kernel/own-node.ts';
import { awaitedLater } from '../../promise.ts';
import type { ExecuteAnswer, ExecuteControl, ExecuteRequest } from '../../service/execute.ts';
import { encodeFrame, FRAME, onFrames, sendMessage } from '../../service/frames.ts';
import { readService } from '../../service/store.ts';
import { connectSupervisor, unwired } from '../../service/supervisor-client.ts';
import { openEngine } from '../engine.ts';
import { commandStatus } from '../exit-status.ts';
import { parseEnvironment } from '../values.ts';
import { notRunning } from './life.ts';
import { repeated } from './options.ts';

const SHELL = ['/bin/sh', '-c', 'if command -v bash >/dev/null; then exec bash -l; fi; exec sh -l'];

interface ExecuteOptions {
  readonly user?: string;
  readonly workdir?: string;
  readonly env: readonly (readonly [string, string])[];
  readonly tty?: boolean;
}

function withOptions(command: Command): Command {
  return command
    .option('--user <user>', 'NAME, UID or UID:GID; root of the sandbox when missing')
    .option('--workdir <dir>', 'where it starts')
    .addOption(
      repeated('--env <name=value>', 'set a variable', (text) =>
        parseEnvironment(text, callerVariable),
      ),
    );
}

/** `kiln service execute`. */
export function executeCommand(): Command {
  const it = new Command('execute')
    .alias('exec')
    .description('Run a command in a service that runs; its exit status is kiln’s.')
    .usage('[options] NAME [--] COMMAND [ARGUMENT…]')
    .argument('<name>')
    .argument('<command...>')
    .option('-t, --tty', 'give it a terminal')
    .addHelpText(
      'after',
      '\nExamples:\n  kiln service execute apache1 -- ip addr\n  kiln service execute db -- mariadb -e "show databases"',
    );
  return withOptions(it).action((name: string, argv: string[], options: ExecuteOptions) =>
    execute(name, argv, options),
  );
}

/** `kiln service connect`. */
export function connectCommand(): Command {
  const it = new Command('connect')
    .description('A shell in a service that runs.')
    .argument('<name>')
    .addHelpText(
      'after',
      '\nExamples:\n  kiln service connect apache1\n  kiln service connect --user postgres pg',
    );
  return withOptions(it).action((name: string, options: ExecuteOptions) => {
    const tty = process.stdin.isTTY === true && process.stdout.isTTY === true;
    return execute(name, SHELL, { ...options, tty });
  });
}

async function execute(
  name: string,
  argv: readonly string[],
  options: ExecuteOptions,
): Promise<void> {
  await using engine = openEngine();
  const { files } = await readService(engine.paths, name);
  const socket = await connectSupervisor(files);
  if (socket === undefined) throw notRunning(name);
  const { TERM } = process.env;
  const env = { ...(options.tty && TERM ? { TERM } : {}), ...Object.fromEntries(options.env) };
  const command: ExecuteRequest = {
    argv,
    env,
    ...(options.user === undefined ? {} : { user: options.user }),
    ...(options.workdir === undefined ? {} : { workdir: options.workdir }),
    ...(options.tty === true ? { terminal: windowSize() } : {}),
  };
  try {
    using _forwarding = forward(socket, options.tty === true);
    const ended = awaitedLater(converse(socket));
    sendMessage(socket, { do: 'execute', command });
    const { exitCode, signal } = await ended;
    process.exitCode = commandStatus({ exitCode, signal, timeLimit: null });
  } finally {
    socket.destroy();
  }
}

type Ended = Extract<ExecuteAnswer, { exitCode: unknown }>;

/** Copies output and waits for the end. */
function converse(socket: Socket): Promise<Ended> {
  return new Promise((resolve, reject) => {
    onFrames(socket, ({ kind, body }) => {
      if (kind === FRAME.data) show(socket, process.stdout, body);
      else if (kind === FRAME.errorData) show(socket, process.stderr, body);
      else if (kind === FRAME.message) {
        const answer = JSON.parse(body.toString('utf8')) as ExecuteAnswer;
        if ('error' in answer) reject(unwired(answer.error));
        else if ('exitCode' in answer) resolve(answer);
        else pumpInput(socket);
      }
    });
    socket.on('error', reject);
    // The service was stopped meanwhile, and the command with it.
    socket.once('close', () => resolve({ exitCode: null, signal: 'SIGKILL' }));
  });
}

function show(socket: Socket, to: NodeJS.WriteStream, body: Buffer): void {
  if (to.write(body)) return;
  socket.pause();
  to.once('drain', () => socket.resume());
}

function pumpInput(socket: Socket): void {
  process.stdin.on('data', (chunk: Buffer) => {
    if (socket.write(encodeFrame(FRAME.data, chunk))) return;
    process.stdin.pause();
    socket.once('drain', () => process.stdin.resume());
  });
  process.stdin.once('end', () => socket.write(encodeFrame(FRAME.end, Buffer.alloc(0))));
}

function windowSize(): { rows: number; columns: number } {
  return { rows: process.stdout.rows ?? 24, columns: process.stdout.columns ?? 80 };
}

/** Forwards signals and window sizes; disposing of it ends that and gives the terminal back. */
function forward(socket: Socket, tty: boolean): Disposable {
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const;
  const tell = (control: ExecuteControl) => sendMessage(socket, control, FRAME.control);
  const send = (signal: NodeJS.Signals) => tell({ signal });
  const resized = () => tell(windowSize());
  // The command may have a terminal although kiln has none: in a script, or from cron.
  const raw = tty && process.stdin.isTTY === true;
  if (raw) process.stdin.setRawMode(true);
  for (const signal of signals) process.on(signal, send);
  if (tty) process.stdout.on('resize', resized);
  return {
    [Symbol.dispose]: () => {
      for (const signal of signals) process.off(signal, send);
      process.stdout.off('resize', resized);
      if (raw) process.stdin.setRawMode(false);
      process.stdin.destroy();
    },
  };
}
