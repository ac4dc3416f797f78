/** What goes into a sandbox and its commands beside their plans, and what comes out. */
import type { CgroupUsage } from '../../host/cgroup/cgroup-usage.ts';
import type { CommandFacts } from '../command/command-facts.ts';
import type { SandboxFacts } from '../command/facts.ts';
import type { RefusedCall, SandboxProcess } from '../command/process.ts';
import type { HandOver, RelayedOutput } from '../command/streams.ts';
import type { Secret } from '../policy/specification.ts';
import type { Output } from './output.ts';
import type { CommandEnd } from './supervise.ts';

/** Bytes of a command's output that are kept. */
export const KEPT = 4 << 20;

/** What a sandbox is opened with beside its plan. */
export interface OpenIo {
  readonly secrets?: readonly Secret[];
  /** Aborts the wait for an address of the network. */
  readonly signal?: AbortSignal | undefined;
  /** Is shown what the sandbox uses while commands run. */
  readonly samples?: UsageWatcher | undefined;
}

/** Looks now and then at what a sandbox has used, until the answer is disposed of. */
export interface UsageWatcher {
  watch(read: () => CgroupUsage): Disposable;
}

/** Where a command's stdio goes: to streams of this process unless given. */
export interface CommandStdio {
  /** A terminal of the sandbox instead of three pipes. */
  readonly terminal?: { readonly rows: number; readonly columns: number } | undefined;
  /** Descriptors that output goes to without being read on the way. */
  readonly relay?: RelayedOutput | undefined;
  /** Gives stdio to another process. */
  readonly handOver?: HandOver | undefined;
}

/** What is done with a command that is executed to its end. */
export interface CommandIo {
  /** Standard input; empty unless given. */
  readonly input?: Buffer | undefined;
  readonly onOutput?: ((chunk: Buffer, stream: 'stdout' | 'stderr') => void) | undefined;
  /** Bytes of both outputs that are kept, the last ones; {@link KEPT} unless given. */
  readonly keep?: number;
  /** Bytes of its standard output that are kept, the first ones; none unless given. */
  readonly capture?: number;
  /** Ends the command; the signal's reason is thrown. */
  readonly signal?: AbortSignal | undefined;
  /** Work that needs nothing of the command: it is done while that runs. */
  readonly meanwhile?: (() => void) | undefined;
}

/** Which limit ended the command or got in its way. */
export type LimitHit = 'timeout' | 'stall' | 'memory' | 'pids' | 'disk';

/** What was measured in the sandbox when a command started. */
export type Measured = SandboxFacts & CommandFacts;

/** How a command ended, and what of it is known. */
export interface Ended extends CommandEnd {
  readonly limitHit: LimitHit | null;
  /** Of all processes that the sandbox has had. */
  readonly usage: CgroupUsage;
  readonly measured: Measured;
  /** System calls that its filter refused. */
  readonly refused: readonly RefusedCall[];
}

/** What an executed command wrote, as far as it was to be kept. */
export interface Executed extends Ended {
  /** Both outputs, in the order they came. */
  readonly output: Output;
  /** The beginning of its standard output. */
  readonly stdout: Buffer;
}

/** A command that has been started. */
export interface RunningCommand {
  readonly process: SandboxProcess;
  readonly measured: Measured;
  /** Ends it, and what it has started, unless that is to be left. */
  kill(): Promise<void>;
  /** Waits for its end within its limits of time. Its output has to be read by somebody. */
  ended(): Promise<Ended>;
}
