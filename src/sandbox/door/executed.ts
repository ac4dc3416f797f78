import { addAbortListener } from 'node:events';
import { awaitedLater } from '../../promise.ts';
import { KEPT, listenToOutput, Output } from '../command/output.ts';
import type { CommandIo, Executed, RunningCommand } from './io.ts';

/** Feeds a command its input, keeps its output, and waits for its end. @throws the signal's reason */
export async function executed(command: RunningCommand, io: CommandIo): Promise<Executed> {
  const { signal, onOutput, capture = 0 } = io;
  const output = new Output(io.keep ?? KEPT);
  const stdout: Buffer[] = [];
  let captured = 0;
  const take = (chunk: Buffer, stream: 'stdout' | 'stderr') => {
    output.push(chunk);
    if (stream === 'stdout' && captured < capture) {
      stdout.push(chunk.subarray(0, capture - captured));
      captured += chunk.length;
    }
    onOutput?.(chunk, stream);
  };
  const listener = listenToOutput(command.process, take, command.kill);
  // Also called where the signal was aborted while the command started.
  const abort = () => void command.kill().catch(() => undefined);
  using _abort = signal && addAbortListener(signal, abort);
  const ended = awaitedLater(command.ended());
  command.process.stdin.end(io.input);
  io.meanwhile?.();
  const end = await ended.catch((error: unknown) => {
    signal?.throwIfAborted();
    listener.rethrow();
    throw error;
  });
  signal?.throwIfAborted();
  listener.rethrow();
  return { ...end, output, stdout: Buffer.concat(stdout) };
}
