import { addAbortListener } from 'node:events';
import { closeSync, constants, mkdirSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { GLOBSTAR } from 'minimatch';
import { Budget } from '../../artifacts/budget.ts';
import { type ByteString, fromText } from '../../artifacts/byte-string.ts';
import { type ArtifactPattern, compilePattern, EVERYTHING } from '../../artifacts/pattern.ts';
import { type Warning, Warnings } from '../../artifacts/warning.ts';
import { closeDescriptor, createPipe } from '../../host/calls/descriptor.ts';
import { refuseLowDisk } from '../../host/state/disk-watch.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { receivePacked, unpackPacked } from '../../image/archive/packed.ts';
import { openWorkDirectory } from '../../image/store/work-directory.ts';
import { awaitedLater, deferred } from '../../promise.ts';
import type { FilesInside } from '../../sandbox/domain/ground.ts';
import type { PackedFiles } from '../../sandbox/door/visit.ts';

/** Where collectArtifacts() finds a sandbox's files. Its content is hostile. */
export interface ArtifactTree extends AsyncDisposable {
  readonly rootFd: number;
  /** Words where they may go to another process. */
  readonly patterns: readonly (string | ArtifactPattern)[];
}

/** Of a sandbox. */
interface ArtifactSource {
  readonly inside: { readonly pack: FilesInside['pack'] } | undefined;
  openRoot(): number;
}

interface PackRequest {
  readonly paths: StatePaths;
  /** Bytes that may be collected; of all artifacts unless given. */
  readonly bytes?: number | undefined;
  readonly signal: AbortSignal;
  readonly warn: (warning: Warning) => void;
}

interface TreeRequest extends PackRequest {
  readonly patterns: readonly string[];
  readonly workdir: string;
}

/**
 * The root of a container. A machine packs what the patterns match, and it is unpacked on the disk of the state: then
 * times are of whole seconds, and holes are filled.
 * @throws KilnError E_SANDBOX_GONE, E_MACHINE, E_ARTIFACT_LIMIT, E_DISK, the signal's reason
 */
export async function openArtifactTree(
  files: ArtifactSource,
  request: TreeRequest,
): Promise<ArtifactTree> {
  const { patterns, workdir } = request;
  if (files.inside !== undefined) {
    const { pack } = files.inside;
    const compiled = patterns.map((source) => compilePattern(source, workdir));
    return await packedTree(packInto(pack), compiled, request);
  }
  const rootFd = files.openRoot();
  return { rootFd, patterns, [Symbol.asyncDispose]: async () => closeSync(rootFd) };
}

/**
 * A file or folder of a machine's, with all that is in it, packed and unpacked as artifacts are. What the machine does
 * not have is not there either.
 * @param place absolute; with a slash, or a slash and a dot at the end all that is in a folder
 * @throws KilnError as {@link openArtifactTree}
 */
export async function openPackedFiles(
  begin: BeginPacking,
  place: string,
  request: PackRequest,
): Promise<ArtifactTree & { readonly path: string }> {
  const [, above = '', name = ''] = /^(.*?)\/+([^/]*)\/*$/s.exec(place) ?? [];
  const isContent = name === '' || name === '.';
  const pattern: ArtifactPattern = {
    ...{ source: place, base: `${above}/`, directoriesOnly: false },
    start: [{ segments: [isContent ? EVERYTHING : name], at: 0 }],
  };
  const tree = await packedTree(begin, [pattern], request);
  return { ...tree, path: isContent ? '/0/.' : `/0/${name}` };
}

/** Begins to pack what patterns match. */
type BeginPacking = (patterns: Buffer) => Promise<PackedFiles>;

/** In this process. */
export function packInto(pack: FilesInside['pack']): BeginPacking {
  return async (patterns) => {
    const pipe = createPipe(0);
    const packed = awaitedLater(pack(patterns, pipe.write));
    closeDescriptor(pipe.write);
    return { fd: pipe.read, packed };
  };
}

async function packedTree(
  begin: BeginPacking,
  wanted: readonly ArtifactPattern[],
  { paths, bytes, signal, warn }: PackRequest,
): Promise<ArtifactTree> {
  await using stack = new AsyncDisposableStack();
  const work = stack.use(await openWorkDirectory(paths));
  const [archive, tree] = [join(work.path, 'artifacts.tar'), join(work.path, 'artifacts')];
  // A machine that breaks out of its kernel sends what it likes: the host's disk keeps its reserve.
  const room = (size: number) => refuseLowDisk(work.path, size);
  const budget = new Budget(bytes === undefined ? {} : { bytes }, signal, room);
  await receive(await begin(packing(wanted)), archive, budget, signal);
  mkdirSync(tree);
  const left = await unpackPacked(archive, tree, { what: 'artifacts', maxBytes: bytes, signal });
  const patterns = wanted.map((pattern, at) => {
    return { ...pattern, base: `/${at}`, title: pattern.base };
  });
  const bases = wanted.map(({ base }) => base.replace(/\/$/, ''));
  const special = new Warnings(warn);
  for (const { path, what } of specialFiles(left, bases)) special.add('special-file', path, what);
  special.finish();
  const rootFd = openSync(tree, constants.O_RDONLY | constants.O_DIRECTORY);
  stack.defer(() => closeSync(rootFd));
  const held = stack.move();
  return { rootFd, patterns, [Symbol.asyncDispose]: () => held.disposeAsync() };
}

/** What was not unpacked, once for each file, in the words that a container's have. */
function specialFiles(left: readonly string[], bases: readonly string[]) {
  const found = new Map<ByteString, string>();
  for (const text of left) {
    const [, at, below = '', kind] = /^\/(\d+)(\/.*) is a (.*): left out$/s.exec(text) ?? [];
    const base = bases[Number(at)];
    if (base !== undefined) found.set(fromText(base) + below, `is a ${kind}: skipped`);
  }
  return [...found].map(([path, what]) => ({ path, what }));
}

async function receive(
  { fd, packed }: PackedFiles,
  archive: string,
  budget: Budget,
  signal: AbortSignal,
): Promise<void> {
  await receivePacked(fd, archive, budget, signal);
  const over = deferred<never>();
  const abort = () => over.reject(signal.reason);
  using _abort = addAbortListener(signal, abort);
  await Promise.race([packed, over.promise]);
}

/** As src/guest/machine/pack.c reads them. What it matches may be more than the patterns do, never less. */
function packing(wanted: readonly ArtifactPattern[]): Buffer {
  const texts = wanted.flatMap(({ base, start }, at) =>
    start.flatMap(({ segments }) => [`${at}`, base, ...segments.map(partOf), '']),
  );
  return Buffer.from(texts.map((text) => `${text}\0`).join(''));
}

/** What a pattern of minimatch may have beside plain letters. */
const SPECIAL = '*?[\\]{}\\\\!+@()';

function partOf(segment: ArtifactPattern['start'][number]['segments'][number]): string {
  if (segment === GLOBSTAR) return '**';
  if (typeof segment === 'string') return segment;
  const glob = 'pattern' in segment ? String(segment.pattern) : '*';
  const [begin = ''] = new RegExp(`^[^${SPECIAL}]*`).exec(glob) ?? [];
  const [end = ''] = new RegExp(`[^${SPECIAL}]*$`).exec(glob.slice(begin.length)) ?? [];
  return `${begin}*${end}`;
}
