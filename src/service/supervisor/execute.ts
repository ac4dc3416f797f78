import type { Socket } from 'node:net';
import type { Readable } from 'node:stream';
import { awaitedLater } from '../../promise.ts';
import type { SandboxProcess } from '../../sandbox/command/process.ts';
import { ROOT_CAPABILITIES } from '../../sandbox/policy/capabilities.ts';
import { encodeFrame, FRAME, sendMessage, wired } from './frames.ts';
import { endOf, type UnitHost } from './unit-host.ts';

/** A command to run in a running service. */
export interface ExecuteRequest {
  readonly argv: readonly string[];
  /** NAME|UID[:GROUP|GID]; root by default. */
  readonly user?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly workdir?: string;
  readonly terminal?: { readonly rows: number; readonly columns: number };
}

/** A signal or a window size for a running command. */
export type ExecuteControl =
  | { readonly signal: NodeJS.Signals }
  | { readonly rows: number; readonly columns: number };

/** The last answer to a client; `started` comes first if the command runs. */
export type ExecuteAnswer =
  | { readonly started: true }
  | { readonly exitCode: number | null; readonly signal: NodeJS.Signals | null }
  | { readonly error: ReturnType<typeof wired> };

/** Runs a command for a client, whose socket carries input and output. The command ends with the client. */
export function execute(
  host: UnitHost,
  request: ExecuteRequest,
  client: Socket,
): { receive(kind: number, body: Buffer): void } {
  let command: SandboxProcess | undefined;
  const early: (() => void)[] = [];
  const receive = (kind: number, body: Buffer): void => {
    if (command === undefined) {
      early.push(() => receive(kind, body));
      return;
    }
    if (kind === FRAME.data) {
      if (command.stdin.writable && !command.stdin.write(body)) {
        client.pause();
        command.stdin.once('drain', () => client.resume());
      }
    } else if (kind === FRAME.end) command.stdin.end();
    else if (kind === FRAME.control) obey(command, JSON.parse(body.toString()) as ExecuteControl);
  };
  start(host, request).then(
    (started) => {
      command = started;
      client.once('close', () => void started.kill('SIGHUP'));
      started.stdin.once('close', () => client.resume());
      sendMessage(client, { started: true } satisfies ExecuteAnswer);
      attach(started, client);
      for (const act of early.splice(0)) act();
    },
    (error: unknown) => {
      sendMessage(client, { error: wired(error) } satisfies ExecuteAnswer);
      client.end();
    },
  );
  return { receive };
}

async function start(host: UnitHost, request: ExecuteRequest): Promise<SandboxProcess> {
  const { argv, user = '0:0', env, workdir = '/', terminal } = request;
  const root = /^(?:0|root)(?::|$)/.test(user);
  const capabilities = root ? [...new Set([...ROOT_CAPABILITIES, ...host.capabilities])] : [];
  const plan = { argv, env: { ...host.environment, ...env }, workdir, time: {} } as const;
  const policy = { user, capabilities, seccomp: 'default' };
  const started = await host.sandbox.start({ ...plan, policy, leftovers: 'left' }, { terminal });
  return started.process;
}

function attach(command: SandboxProcess, client: Socket): void {
  const ended = awaitedLater(endOf(command));
  const drained = awaitedLater(
    Promise.all([
      relay(command.stdout, FRAME.data, client),
      relay(command.stderr, FRAME.errorData, client),
    ]),
  );
  const tell = async () => {
    const end = await ended;
    await drained;
    sendMessage(client, end satisfies ExecuteAnswer);
    client.end();
  };
  // If the end cannot be told, the client takes the closed connection for it.
  tell().catch(() => client.destroy());
}

/** Resolves when the stream has ended, or when nobody reads it any more. */
function relay(from: Readable, kind: number, client: Socket): Promise<void> {
  from.on('data', (chunk: Buffer) => {
    if (client.write(encodeFrame(kind, chunk))) return;
    from.pause();
    client.once('drain', () => from.resume());
  });
  return new Promise((resolve) => {
    from.once('close', resolve);
    client.once('close', resolve);
  });
}

function obey(command: SandboxProcess, control: ExecuteControl): void {
  if ('signal' in control) command.kill(control.signal);
  else command.resize(control.rows, control.columns);
}
