import type { CgroupUsage } from '../../host/cgroup/cgroup-usage.ts';
import type { CommandFacts, SandboxFacts } from '../command/facts.ts';
import type { Output } from '../command/output.ts';
import type { RefusedCall, SandboxProcess } from '../command/process.ts';
import type { Secret } from '../policy/specification.ts';
import type { CommandEnd } from './supervise.ts';

export interface OpenIo {
  readonly secrets?: readonly Secret[];
  readonly signal?: AbortSignal | undefined;
  readonly samples?: UsageWatcher | undefined;
  /** What its caller calls the sandbox. */
  readonly name?: string | undefined;
}

interface UsageWatcher {
  watch(read: () => CgroupUsage): Disposable;
}

export interface CommandIo {
  readonly input?: Buffer | undefined;
  readonly onOutput?: ((chunk: Buffer, stream: 'stdout' | 'stderr') => void) | undefined;
  readonly keep?: number;
  readonly capture?: number;
  readonly signal?: AbortSignal | undefined;
  /** Work that needs nothing of the command: it is done while that runs. */
  readonly meanwhile?: (() => void) | undefined;
}

export type LimitHit = 'timeout' | 'stall' | 'memory' | 'pids' | 'disk';

export type Measured = SandboxFacts & CommandFacts;

export interface Ended extends CommandEnd {
  readonly limitHit: LimitHit | null;
  readonly usage: CgroupUsage;
  readonly measured: Measured;
  readonly refused: readonly RefusedCall[];
}

export interface Executed extends Ended {
  readonly output: Output;
  readonly stdout: Buffer;
}

export interface RunningCommand {
  readonly process: SandboxProcess;
  readonly measured: Measured;
  kill(): Promise<void>;
  ended(): Promise<Ended>;
}
