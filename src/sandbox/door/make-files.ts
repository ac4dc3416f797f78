/**
 * Files that a process of the sandbox's makes (src/guest/unpack.c), not kiln's: the sandbox's limits count what it
 * writes, and whatever others do to the tree meanwhile, no path leads out of it.
 */
import { addAbortListener, once } from 'node:events';
import {
  type CopyInItem,
  cannotWriteError,
  type Send,
  sendFiles,
  type Unmade,
} from '../../artifacts/copy-in.ts';
import type { Warning } from '../../artifacts/warning.ts';
import { SyscallError } from '../../host/calls/libc.ts';
import { awaitedLater } from '../../promise.ts';
import type { SandboxProcess } from '../command/process.ts';

/** Bytes of errno (i32), before the path. */
const ERRNO = 4;

/** Bytes of what it says of its failure: errno and a path. */
const SAID_MAX = 16 * 1024;

/** Copies a file or folder of the host by a process of the sandbox's. @throws KilnError E_COPY_IN, E_ARTIFACT_LIMIT */
export async function copyBy(
  maker: SandboxProcess,
  item: CopyInItem,
  onWarning: (warning: Warning) => void,
  signal: AbortSignal | undefined,
): Promise<void> {
  const options = { signal, onWarning };
  const unmade = await makeFiles(maker, (send) => sendFiles(item, send, options), signal);
  if (unmade !== undefined) throw cannotWriteError(item, unmade);
}

/** Sends a process what `write` sends, and waits for its end. Undefined if all is made. */
export async function makeFiles(
  maker: SandboxProcess,
  write: (send: Send) => Promise<void>,
  signal: AbortSignal | undefined,
): Promise<Unmade | undefined> {
  const closed = awaitedLater(once(maker, 'close'));
  let said = Buffer.alloc(0);
  maker.stderr.on('data', (chunk: Buffer) => {
    said = Buffer.concat([said, chunk]).subarray(0, SAID_MAX);
  });
  maker.stdout.resume();
  const abort = () => void maker.kill('SIGKILL');
  using _abort = signal && addAbortListener(signal, abort);
  const unread = new Error('nobody reads any more');
  const send: Send = (bytes) =>
    new Promise((resolve, reject) => {
      maker.stdin.write(bytes, (error) => (error ? reject(unread) : resolve()));
    });
  try {
    await write(send);
    maker.stdin.end();
  } catch (error) {
    // It has ended early, and said why.
    if (error !== unread) throw error;
  } finally {
    if (!maker.stdin.writableEnded) abort();
    await closed;
  }
  signal?.throwIfAborted();
  if (maker.exitCode === 0) return undefined;
  if (said.length < ERRNO) return { signal: maker.signalCode ?? 'SIGKILL' };
  const path = said.toString('utf8', ERRNO);
  return { cause: new SyscallError('open', said.readInt32LE(0), path), path };
}
