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

/** What opening a sandbox needs beside its plan. */
export interface OpenIo {
  readonly secrets?: readonly Secret[];
  /** Aborts the wait for an address of the network. */
  readonly signal?: AbortSignal | undefined;
  /** Samples what the sandbox uses while commands run. */
  readonly samples?: UsageWatcher | undefined;
}

/** Samples what a sandbox uses, until the result is disposed of. */
export interface UsageWatcher {
  watch(read: () => CgroupUsage): Disposable;
}

/** Where a command's stdio goes: to streams of this process by default. */
export interface CommandStdio {
  /** A terminal of the sandbox instead of three pipes. */
  readonly terminal?: { readonly rows: number; readonly columns: number } | undefined;
  /** Descriptors to which output is moved without being read. */
  readonly relay?: RelayedOutput | undefined;
  /** Passes stdio to another process. */
  readonly handOver?: HandOver | undefined;
}

/** How a command is run to its end. */
export interface CommandIo {
  /** Standard input; empty unless given. */
  readonly input?: Buffer | undefined;
  readonly onOutput?: ((chunk: Buffer, stream: 'stdout' | 'stderr') => void) | undefined;
  /** How many of the last bytes of both outputs are kept; {@link KEPT} by default. */
  readonly keep?: number;
  /** How many of the first bytes of standard output are kept; none by default. */
  readonly capture?: number;
  /** Ends the command; then the signal's reason is thrown. */
  readonly signal?: AbortSignal | undefined;
  /** Work that needs nothing of the command: it is done while that runs. */
  readonly meanwhile?: (() => void) | undefined;
}

/** The limit that ended or hindered the command. */
export type LimitHit = 'timeout' | 'stall' | 'memory' | 'pids' | 'disk';

/** What was measured in the sandbox when a command started. */
export type Measured = SandboxFacts & CommandFacts;

/** How a command ended, and what was measured. */
export interface Ended extends CommandEnd {
  readonly limitHit: LimitHit | null;
  /** Of all processes that the sandbox has had. */
  readonly usage: CgroupUsage;
  readonly measured: Measured;
  /** System calls that its filter refused. */
  readonly refused: readonly RefusedCall[];
}

/** An ended command with its kept output. */
export interface Executed extends Ended {
  /** Both outputs, in the order they came. */
  readonly output: Output;
  /** The beginning of its standard output. */
  readonly stdout: Buffer;
}

/** A running command. */
export interface RunningCommand {
  readonly process: SandboxProcess;
  readonly measured: Measured;
  /** Ends the command and, unless they may stay, the processes that it started. */
  kill(): Promise<void>;
  /** Waits for the end of the command within its time limits. Its output must be read by the caller. */
  ended(): Promise<Ended>;
}
