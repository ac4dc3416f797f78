/** The library for programs: the package kiln-client by itself, and a part of kiln's own. Nothing here loads native code. */

export { KilnError } from '../errors.ts';
export type { SandboxCommand, SpawnOptions } from './command.ts';
export { type ConnectOptions, connect } from './connect.ts';
export type { JobOptions } from './connection.ts';
export type * from './io-kiln.ts';
export type {
  BuildImageOptions,
  BuildOptions,
  Kiln,
  OpenOptions,
  RunOptions,
  RunOutcome,
} from './kiln.ts';
export { ExecError, type ExecOptions, type ExecResult, type Sandbox } from './sandbox.ts';
