import { defined } from '../../defined.ts';
import { isKilnCode, KilnError } from '../../errors.ts';
import { closeDescriptor } from '../../host/calls/descriptor.ts';
import type { IdRange } from '../../host/state/reservation.ts';
import { traceSandbox } from '../../host/trace/trace.ts';
import { awaitedLater } from '../../promise.ts';
import type { SandboxLabels } from '../labels/module.ts';
import { PROC_RULES } from '../policy/filesystem.ts';
import { type CommandPolicy, capabilityMask } from '../policy/specification.ts';
import { encodeExec, encodeRequest, encodeSignal, type ResourceLimit } from '../wire/codec.ts';
import type { Answer } from '../wire/table.ts';
import type { Channel } from './channel.ts';
import { readCommandFacts } from './facts.ts';
import { execError } from './failures.ts';
import {
  type CommandControl,
  type CommandStdio,
  exitOf,
  pipes,
  SandboxProcess,
  streamsOf,
  terminalSocket,
} from './process.ts';

export interface SpawnOptions extends CommandStdio {
  readonly policy: CommandPolicy;
  /** The whole environment; HOME, USER and LOGNAME are added from the image when missing. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  readonly workdir?: string | undefined;
  readonly limits?: readonly ResourceLimit[] | undefined;
  readonly umask?: number | undefined;
  readonly boot?: true | undefined;
  /** It executes nothing: it makes files of its input, in the format of src/artifacts/copy-in.ts. */
  readonly unpacks?: true | undefined;
}

/**
 * No core dumps (RLIMIT_CORE). With a `|` in core_pattern(5), a program of the host's reads them as the host's
 * root. The limit is 1, because such a program is started even if the limit is 0.
 */
const NO_CORE: ResourceLimit = { resource: 4, soft: 1, hard: 1 };

/**
 * Each user of each sandbox may have as much; the kernel counts all of it to the host's root as well, who has some
 * ten thousand pending signals (RLIMIT_SIGPENDING; a timer is one) and 819,200 bytes of POSIX message queues
 * (RLIMIT_MSGQUEUE). Source: user_namespaces(7), the kernel's ucount.c.
 */
const SHARES: readonly ResourceLimit[] = [
  { resource: 11, soft: 1024, hard: 1024 },
  { resource: 12, soft: 102_400, hard: 102_400 },
];

function resourceLimits(asked: readonly ResourceLimit[] = []): ResourceLimit[] {
  const shares = SHARES.map(({ resource, soft, hard }) => {
    const lower = asked.find((limit) => limit.resource === resource);
    if (lower === undefined) return { resource, soft, hard };
    return { resource, soft: Math.min(soft, lower.soft), hard: Math.min(hard, lower.hard) };
  });
  const ours = [...shares, NO_CORE];
  const others = asked.filter(({ resource }) => !ours.some((one) => one.resource === resource));
  return [...others, ...ours];
}

/** systemd's own search path, too (systemd.exec(5), ExecSearchPath=). */
export const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** The sandbox of a command. */
export interface CommandPlace {
  readonly id: string;
  readonly channel: Channel;
  readonly range: IdRange;
  readonly record: { readonly labels?: SandboxLabels | undefined };
}

/**
 * Sends a command to the init; resolves once it has been exec'd. Throws E_COMMAND_NOT_FOUND,
 * E_COMMAND_NOT_EXECUTABLE, E_NO_USER, E_WORKDIR, E_EXEC, E_LAYER_MISSING, E_SANDBOX_GONE.
 */
export async function startCommand(
  { id: sandbox, channel, range, record: { labels } }: CommandPlace,
  argv: readonly string[],
  options: SpawnOptions,
): Promise<SandboxProcess> {
  const { policy, terminal, handOver, umask = 0o022, workdir = '/', unpacks } = options;
  const { user, landlock, openSockets, seccomp } = policy;
  const id = channel.newId();
  const boot = options.boot === true ? PROC_RULES : [];
  const capabilities = capabilityMask(policy.capabilities);
  const limits = resourceLimits(options.limits);
  const message = encodeExec({
    id,
    argv,
    environment: environment(options),
    workdir,
    user,
    capabilities,
    seccomp: seccomp.asking ?? seccomp.plain,
    ...(seccomp.asking === undefined ? {} : { verdicts: seccomp.plain }),
    landlock,
    openSockets,
    limits,
    ...defined({ terminal }),
    umask,
    boot,
    unpacks,
  });
  const stdio = terminal === undefined ? pipes(range.base) : terminalSocket();
  const fail = (answer: Answer) => {
    if (answer.type === 'failed' && answer.id === id) throw execError(answer, argv, seccomp.name);
  };
  try {
    // Listen before it starts: its end may arrive together with its start.
    const ended = awaitedLater(
      channel
        .wait((answer) => {
          fail(answer);
          return answer.type === 'exited' && answer.id === id ? exitOf(answer) : undefined;
        })
        .catch((error: unknown) => {
          throw isKilnCode(error, 'E_SANDBOX_GONE') ? goneBeforeError(sandbox, error) : error;
        }),
    );
    const started = awaitedLater(
      channel.ask((answer) => {
        fail(answer);
        return answer.type === 'started' && answer.id === id ? answer : undefined;
      }),
    );
    try {
      channel.send(message, stdio.guest);
    } finally {
      for (const fd of stdio.guest) closeDescriptor(fd);
    }
    const { pid, facts: text } = await started;
    traceSandbox(channel.initPid, text);
    const expected = { user, capabilities, landlock, openSockets, limits, boot, labels };
    const facts = readCommandFacts(text, expected);
    const streams = streamsOf(stdio.receive(), handOver);
    return new SandboxProcess(commandControl(channel, id), { pid, facts }, streams, ended);
  } catch (error) {
    stdio.abandon();
    throw error;
  }
}

function commandControl(channel: Channel, id: number): CommandControl {
  return {
    signal: (signal) => channel.send(encodeSignal(id, signal)),
    resize: (rows, columns) =>
      channel.send(
        encodeRequest('winsize', [
          { op: 'id', id },
          { op: 'terminal', rows, columns },
        ]),
      ),
  };
}

function goneBeforeError(id: string, cause: KilnError): KilnError {
  return new KilnError('E_SANDBOX_GONE', `sandbox ${id} ended before its command did`, {
    cause: cause.cause,
    hint: 'somebody killed it, as `kiln kill` does, or the kernel: `journalctl -k` shows that; try again',
  });
}

function environment(options: SpawnOptions): string[] {
  const variables = { PATH: DEFAULT_PATH, container: 'kiln', ...options.env };
  return Object.entries(variables).map(([name, value]) => `${name}=${value}`);
}
