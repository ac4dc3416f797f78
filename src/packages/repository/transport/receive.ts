import { open, truncate } from 'node:fs/promises';
import type { IncomingHttpHeaders } from 'node:http';
import { KilnError } from '../../../errors.ts';
import { type Answer, type GetOptions, get, reason, TransferError } from './http.ts';
import { BrokenFileError } from './mirrors.ts';
import type { TransferOptions } from './transfer.ts';

interface ReceiveOptions extends GetOptions {
  readonly size: number | undefined;
  readonly maxSize: number;
  readonly onBytes: (received: number) => void;
}

export async function receiveBuffer(
  url: string,
  options: ReceiveOptions,
): Promise<{ readonly content: Buffer; readonly headers: IncomingHttpHeaders } | undefined> {
  const answer = await get(url, options);
  if (answer.status === 304) {
    answer.body[Symbol.dispose]();
    return undefined;
  }
  if (answer.status !== 200) throw unexpected(answer);
  const chunks: Buffer[] = [];
  for await (const chunk of watched(answer, 0, options)) chunks.push(chunk);
  return { content: Buffer.concat(chunks), headers: answer.headers };
}

export interface ResumeState {
  validator?: { readonly url: string; readonly etag: string } | undefined;
}

/**
 * Downloads `url` into `path`, which has `have` bytes already. The caller checks whether the file is the right one.
 * @throws TransferError; KilnError E_CACHE_WRITE
 */
export async function receiveFile(
  url: string,
  path: string,
  have: number,
  resume: ResumeState,
  options: ReceiveOptions,
): Promise<void> {
  const headers: Record<string, string> = { ...options.headers };
  if (have > 0) {
    headers.range = `bytes=${have}-`;
    // Without a validator, the file's digest tells in the end whether both parts fit.
    if (resume.validator?.url === url) headers['if-range'] = resume.validator.etag;
  }
  const answer = await get(url, { ...options, headers });
  if (answer.status === 416) {
    answer.body[Symbol.dispose]();
    await truncate(path);
    throw new TransferError('it has less of the file than is here already', { transient: true });
  }
  const start = bodyStart(answer, have);
  const { etag } = answer.headers;
  resume.validator = etag?.startsWith('"') ? { url, etag } : undefined;
  try {
    await using file = await open(path, 'r+');
    await file.truncate(start);
    let position = start;
    for await (const chunk of watched(answer, start, options)) {
      await file.writev([chunk], position);
      position += chunk.length;
    }
  } catch (error) {
    answer.body[Symbol.dispose]();
    if (error instanceof KilnError || options.signal?.aborted) throw error;
    throw new KilnError('E_CACHE_WRITE', `the cache cannot be written: ${reason(error)}`, {
      cause: error,
      hint: 'make room on the disk that holds KILN_STATE (`kiln gc`)',
    });
  }
}

function bodyStart(answer: Answer, have: number): number {
  if (answer.status === 200) return 0;
  const range = /^bytes (\d+)-\d+\/(?:\d+|\*)$/.exec(answer.headers['content-range'] ?? '');
  if (answer.status === 206 && range !== null && Number(range[1]) === have) return have;
  throw unexpected(answer);
}

function unexpected(answer: Answer): TransferError {
  answer.body[Symbol.dispose]();
  return new TransferError(`the server answered ${answer.status} out of place`, {
    transient: false,
  });
}

async function* watched(
  answer: Answer,
  start: number,
  options: ReceiveOptions,
): AsyncGenerator<Buffer> {
  const { size, maxSize, signal } = options;
  const limit = Math.min(size ?? maxSize, maxSize);
  checkAnnounced(answer, start, limit);
  using watch = watchStall(options.transfer, (why) => answer.body.fail(new Error(why)));
  let received = start;
  try {
    for await (const chunk of answer.body) {
      received += chunk.length;
      watch.received(chunk.length);
      if (received > limit) throw tooLong(limit);
      options.onBytes(received);
      yield chunk;
    }
  } catch (error) {
    signal?.throwIfAborted();
    if (error instanceof KilnError) throw error;
    throw new TransferError(`the transfer broke off: ${reason(error)}`, {
      transient: true,
      cause: error,
    });
  }
  if (size === undefined || received === size) return;
  throw new BrokenFileError(`it has ${received} bytes instead of ${size}`);
}

function checkAnnounced(answer: Answer, start: number, limit: number): void {
  const announced = answer.headers['content-length'];
  if (announced === undefined || start + Number(announced) <= limit) return;
  answer.body[Symbol.dispose]();
  throw tooLong(limit);
}

function tooLong(limit: number): BrokenFileError {
  return new BrokenFileError(`it is longer than the ${limit} bytes it may have`);
}

function watchStall(options: TransferOptions, onStall: (reason: string) => void) {
  let lastByte = performance.now();
  let windowStart = lastByte;
  let windowBytes = 0;
  const period = Math.max(10, Math.min(options.idleTimeout, options.rateWindow) / 8);
  let lastCheck = lastByte;
  const check = () => {
    const now = performance.now();
    const late = now - lastCheck > 3 * period;
    lastCheck = now;
    if (late) {
      // This process was suspended or busy; the server is not at fault.
      lastByte = windowStart = now;
      windowBytes = 0;
      return;
    }
    if (now - lastByte > options.idleTimeout) {
      onStall(`it stalled: nothing came for ${seconds(now - lastByte)} s`);
      return;
    }
    const elapsed = now - windowStart;
    if (elapsed < options.rateWindow) return;
    const rate = (windowBytes * 1000) / elapsed;
    if (rate < options.minimumRate) {
      onStall(`it stalled: ${Math.round(rate)} bytes/s over ${seconds(elapsed)} s`);
    }
    windowStart = now;
    windowBytes = 0;
  };
  const timer = setInterval(check, period);
  return {
    received(bytes: number) {
      lastByte = performance.now();
      windowBytes += bytes;
    },
    [Symbol.dispose]: () => clearInterval(timer),
  };
}

function seconds(milliseconds: number): string {
  return (milliseconds / 1000).toFixed(1);
}
