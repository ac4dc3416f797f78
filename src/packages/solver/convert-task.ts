/** Confined task `solver-convert`: turns XML metadata into libsolv's own form, which loads twenty times as fast. */
import { closeSync, write as writeCallback, writeSync } from 'node:fs';
import { promisify } from 'node:util';
import { KilnError } from '../../errors.ts';
import type { Pointer } from '../../host/calls/c-library.ts';
import { createPipe } from '../../host/calls/descriptor.ts';
import type { SingleTask, TaskContext } from '../../host/confine/task.ts';
import { deferred } from '../../promise.ts';
import { CompsParser } from '../repository/metadata/comps.ts';
import type { MetadataFile } from '../repository/metadata/read-index.ts';
import { readMetadata } from '../repository/metadata/read-metadata.ts';
import { metadataError } from '../repository/metadata/repomd.ts';
import { loadNativeCodecs } from '../rpm/payload/native-codec.ts';
import { loadLibsolv, REPO_EXTEND_SOLVABLES, REPO_LOCALPOOL } from './libsolv/libsolv.ts';
import { Pool } from './libsolv/pool.ts';
import { DELETE_CACHE } from './solve-input.ts';

/**
 * `primary`: descriptors are the output, primary and, if `group` is given, comps.
 * `filelists`: descriptors are the output, filelists and the converted primary.
 */
export interface ConvertInput {
  readonly kind: 'primary' | 'filelists';
  readonly file: MetadataFile;
  readonly group?: MetadataFile | undefined;
}

const CONVERT = { primary: convertPrimary, filelists: convertFilelists };

export const task: SingleTask = {
  prepare() {
    loadLibsolv();
    loadNativeCodecs();
  },
  async run(value, context) {
    const input = value as ConvertInput;
    await CONVERT[input.kind](input, context);
  },
};

async function convertPrimary(
  { file, group }: ConvertInput,
  { fds, emit }: TaskContext,
): Promise<void> {
  const [output, primary, comps] = fds as [number, number, number?];
  const pool = new Pool('noarch', false);
  const repository = pool.addRepository('repository');
  await addMetadata(pool, repository.address, primary, file, 0);
  save(pool, output, (stream) => pool.library.repo.write(repository.address, stream));
  const groups = new CompsParser();
  if (group === undefined || comps === undefined) return void emit([]);
  for await (const chunk of readMetadata(comps, group)) groups.write(chunk);
  emit(groups.end());
}

async function convertFilelists({ file }: ConvertInput, { fds, emit }: TaskContext): Promise<void> {
  const [output, source, base] = fds as [number, number, number];
  const pool = new Pool('noarch', false);
  const repository = pool.addRepository('repository');
  if (!pool.load(repository, base)) {
    throw new KilnError('E_SOLVER_CACHE', 'the converted metadata in the cache is damaged', {
      hint: DELETE_CACHE,
    });
  }
  const flags = REPO_EXTEND_SOLVABLES | REPO_LOCALPOOL;
  await addMetadata(pool, repository.address, source, file, flags);
  const { repo } = pool.library;
  save(pool, output, (stream) => repo.writeData(repo.lastData(repository.address), stream));
  emit([]);
}

/** Feeds metadata to libsolv through a pipe: the decompressed text, often a gigabyte, is nowhere as a whole. */
async function addMetadata(
  pool: Pool,
  repository: Pointer,
  fd: number,
  file: MetadataFile,
  flags: number,
): Promise<void> {
  const { library } = pool;
  const pipe = createPipe(0);
  const stream = library.fdopen(pipe.read, 'r');
  if (stream === null) {
    throw new KilnError(
      'E_SOLVER_CACHE',
      `${file.location} cannot be read: libsolv gets no stream`,
      {
        hint: 'the machine may have no memory left: try again when it does less',
      },
    );
  }
  const parsed = deferred<number>();
  library.repo.addMetadata.async(repository, stream, null, flags, (error, result) => {
    library.fclose(stream);
    if (error) parsed.reject(error);
    else parsed.resolve(result);
  });
  let written: unknown;
  try {
    for await (const chunk of readMetadata(fd, file)) await writeAll(pipe.write, chunk);
  } catch (error) {
    written = error;
  } finally {
    closeSync(pipe.write);
  }
  const result = await parsed.promise;
  // What is wrong with the file explains why libsolv could not read it.
  if (written instanceof KilnError) throw written;
  if (result !== 0) {
    throw metadataError(file.location, `${library.pool.error(pool.address)}`);
  }
  if (written !== undefined) throw written;
}

const write = promisify(writeCallback);

async function writeAll(fd: number, chunk: Buffer): Promise<void> {
  for (let done = 0; done < chunk.length; ) {
    done += (await write(fd, chunk, done)).bytesWritten;
  }
}

function save(pool: Pool, fd: number, writeTo: (stream: Pointer) => number): void {
  const { fdopen, fflush, fclose } = pool.library;
  const stream = fdopen(fd, 'w');
  const isWritten = stream !== null && writeTo(stream) === 0 && fflush(stream) === 0;
  const cause = isWritten ? undefined : whyNotWritten(fd);
  if (stream !== null && fclose(stream) === 0 && isWritten) return;
  throw new KilnError('E_SOLVER_CACHE', 'the converted metadata cannot be written', {
    cause,
    hint: 'is the disk full?',
  });
}

/** The C library has the reason where nobody can read it: another write fails of the same. */
function whyNotWritten(fd: number): unknown {
  try {
    writeSync(fd, Buffer.alloc(MORE));
    return undefined;
  } catch (error) {
    return error;
  }
}

/** Bytes: more than what may be left in a file's last block. */
const MORE = 1 << 16;
