import type { Readable, Writable } from 'node:stream';
import { KilnError, reasonOf } from '../../errors.ts';
import { awaitedLater } from '../../promise.ts';
import { CHUNK_BYTES, type ParentMessage } from './script-protocol.ts';

export interface CommandProcess {
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly stderr: Readable;
  kill(signal: number): boolean;
  once(
    event: 'exit',
    listener: (code: number | null, signal: NodeJS.Signals | null) => void,
  ): unknown;
  once(event: 'close', listener: () => void): unknown;
  once(event: 'error', listener: (error: Error) => void): unknown;
}

interface RecipePipe {
  /** False when much is under way: stop sending until it has drained. */
  send(message: ParentMessage): boolean;
  whenWritable(then: () => void): void;
}

/** A command that the child of a recipe has started, and hears of by messages. */
export interface RelayedCommand {
  readonly over: Promise<void>;
  feed(data: Buffer): void;
  endInput(): void;
  kill(signal: number): void;
  abandon(): void;
}

export function relayCommand(
  id: number,
  starting: Promise<CommandProcess>,
  { send, whenWritable }: RecipePipe,
): RelayedCommand {
  const started = awaitedLater(starting);
  const withCommand = (act: (command: CommandProcess) => void) => {
    started.then(act, () => undefined);
  };
  let isFed = false;
  let abandon = () => {};
  const forward = (stream: 'stdout' | 'stderr', source: Readable) => {
    source.on('data', (chunk: Buffer) => {
      let writable = true;
      for (let at = 0; at < chunk.length; at += CHUNK_BYTES) {
        const data = chunk.subarray(at, at + CHUNK_BYTES).toString('base64');
        writable = send({ type: 'output', id, stream, data });
      }
      if (writable) return;
      source.pause();
      whenWritable(() => source.resume());
    });
    source.once('close', () => send({ type: 'output', id, stream, data: null }));
  };
  const relay = async () => {
    try {
      const command = await started;
      const { stdin, stdout, stderr } = command;
      abandon = () => {
        for (const stream of [stdin, stdout, stderr]) stream.destroy();
      };
      send({ type: 'started', id });
      forward('stdout', stdout);
      forward('stderr', stderr);
      await new Promise<void>((resolve, reject) => {
        command.once('error', reject);
        command.once('exit', (code, signal) => send({ type: 'exit', id, code, signal }));
        command.once('close', resolve);
      });
    } catch (error) {
      send({ type: 'failed', id, message: reasonOf(error) });
    }
  };
  return {
    over: awaitedLater(relay()),
    feed: (data) => {
      if (isFed) {
        const what = 'the recipe sends input before the last is taken';
        throw new KilnError('E_CONFINE_PROTOCOL', what);
      }
      isFed = true;
      const done = () => {
        isFed = false;
        send({ type: 'drained', id });
      };
      // A command that is gone drains its input as well.
      withCommand(({ stdin }) => (stdin.destroyed ? done() : void stdin.write(data, done)));
    },
    endInput: () => withCommand(({ stdin }) => void stdin.end()),
    kill: (signal) => withCommand((command) => void command.kill(signal)),
    abandon: () => abandon(),
  };
}
