/**
 * Builds dist/: the bundled command line and library, the client, the static guest init, the
 * addon for system calls.
 *
 * Does nothing when dist/ is newer than everything it is made from. Safe while a kiln runs: a file
 * is written beside its place and renamed, chunks carry a hash in their names, and chunks of the
 * build before are only deleted once no process can still want to load them.
 */
import { createHash } from 'node:crypto';
import {
  copyFile,
  mkdir,
  readdir,
  readFile,
  realpath,
  rename,
  rm,
  stat,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { execa } from 'execa';
import { rolldown } from 'rolldown';
import { writeClientPackage } from './packaging/client.ts';
import { thirdPartyNotices } from './packaging/notices.ts';
import { writeGenerated } from './write/wire.ts';

const top = join(import.meta.dirname, '..');
const dist = join(top, 'dist');

/** C that is made from tables, of client and init. */
const WIRE = join(dist, 'wire');

/** How long a replaced chunk stays, for a process that started before and has yet to import it. */
const CHUNK_GRACE_MS = 24 * 3600 * 1000;

/** The entry whose time tells how old the bundles are. */
const MAIN = 'kiln.cjs';

/** The name of a chunk; a pattern, since one build leaves another's behind for a while. */
const CHUNK = /-[A-Za-z0-9_-]{8}\.c?js$/;

/** The bundles: file in dist, without ending, and where it starts. */
const entries: Readonly<Record<string, string>> = {
  kiln: 'src/programs/command-line.ts',
  kilnd: 'src/programs/kilnd.ts',
  'kilnd-worker': 'src/programs/kilnd-worker.ts',
  confined: 'src/programs/confined.ts',
  'egress-proxy': 'src/programs/egress-proxy.ts',
  'watch-disk': 'src/programs/watch-disk.ts',
  index: 'src/index.ts',
};

/**
 * Packages that stay in node_modules: those that load files of their own (native code), and those under
 * the LGPL, which whoever has kiln may replace by a version of their own.
 */
const loaded = ['koffi', 'openpgp'];

/** Times of last change, in milliseconds, of every file and folder below `paths`. */
async function* changeTimes(paths: readonly string[]): AsyncGenerator<number> {
  for (const path of paths) {
    const info = await stat(path).catch(() => undefined);
    if (info === undefined) continue;
    yield info.mtimeMs;
    if (info.isDirectory()) {
      yield* changeTimes((await readdir(path)).map((name) => join(path, name)));
    }
  }
}

/** When a file was changed last, milliseconds since 1970; 0 if there is none. */
async function modified(path: string): Promise<number> {
  return await stat(path).then(
    (info) => info.mtimeMs,
    () => 0,
  );
}

/** Is `target` there and newer than everything below `sources`? */
async function upToDate(target: string, sources: readonly string[]): Promise<boolean> {
  const made = await modified(target);
  if (made === 0) return false;
  for await (const changed of changeTimes(sources.map((path) => resolve(top, path)))) {
    if (changed > made) return false;
  }
  return true;
}

/** Bundles all entries into `directory`, with the notices; returns the names of the chunks that they share. */
async function bundle(directory: string): Promise<Set<string>> {
  await using made = await rolldown({
    input: entries,
    platform: 'node',
    external: [...loaded, 'rolldown', /^node:/],
    cwd: top,
    logLevel: 'warn',
  });
  const { output } = await made.write({
    dir: directory,
    // Every confined child starts with it: Node loads CommonJS in 20 ms less than ECMAScript modules.
    format: 'cjs',
    entryFileNames: '[name].cjs',
    // All in one folder: whatever chunk a module ends up in, `./` is dist/ and `../` the package.
    chunkFileNames: '[name]-[hash:8].cjs',
    comments: { legal: true, jsdoc: false, annotation: false },
  });
  const modules = output.flatMap((file) => (file.type === 'chunk' ? file.moduleIds : []));
  // What reports have inside is no module of the bundle.
  const copied = join(top, 'node_modules/uplot/dist/uPlot.iife.min.js');
  const notices = await thirdPartyNotices([...modules, copied], loaded);
  await writeFile(join(directory, 'THIRD-PARTY-NOTICES'), notices);
  return new Set(output.map((file) => file.fileName).filter((name) => CHUNK.test(name)));
}

/**
 * Bundles what makes packages for the image recipes of Debian, for machines without a checkout: a file by itself,
 * so that the other programs keep their chunks.
 */
async function buildFixtures(): Promise<boolean> {
  const target = join(dist, 'fixtures.mjs');
  const sources = ['src', 'fixtures/debian-rpms', 'package-lock.json', 'scripts/build.ts'];
  if (await upToDate(target, sources)) return false;
  const started = new Date();
  await using made = await rolldown({
    input: 'fixtures/debian-rpms/main.ts',
    platform: 'node',
    external: [...loaded, /^node:/],
    cwd: top,
    logLevel: 'warn',
  });
  const temporary = join(dist, `.fixtures-${process.pid}`);
  const comments = { legal: true, jsdoc: false, annotation: false };
  await made.write({ file: temporary, format: 'esm', codeSplitting: false, comments });
  await utimes(temporary, started, started);
  await rename(temporary, target);
  return true;
}

/** Makes dist/client: the library as a package of its own, kiln-client, which needs no other. */
async function buildClientLibrary(): Promise<boolean> {
  const folder = join(dist, 'client');
  const sources = ['src', 'package-lock.json', 'scripts/build.ts', 'scripts/packaging'];
  if (await upToDate(join(folder, 'package.json'), sources)) return false;
  const temporary = join(dist, `.client-${process.pid}`);
  await writeClientPackage(top, temporary);
  await rm(folder, { recursive: true, force: true });
  await rename(temporary, folder);
  return true;
}

/** Moves the files of `from` into dist/; an entry comes after all that it loads, kiln's own last. */
async function moveIntoDist(from: string, chunks: ReadonlySet<string>): Promise<void> {
  const names = await readdir(from);
  const rank = (name: string) => (chunks.has(name) ? 0 : name === MAIN ? 2 : 1);
  names.sort((a, b) => rank(a) - rank(b));
  for (const name of names) await rename(join(from, name), join(dist, name));
}

/**
 * Deletes chunks that have been replaced for long. One that this build has just replaced is dated
 * now: the build before, begun at `before` (milliseconds since 1970), may itself be old.
 */
async function sweepChunks(current: ReadonlySet<string>, before: number): Promise<void> {
  const now = new Date();
  for (const name of await readdir(dist)) {
    if (!CHUNK.test(name) || current.has(name)) continue;
    const { mtimeMs } = await stat(join(dist, name));
    if (mtimeMs >= before) await utimes(join(dist, name), now, now);
    else if (now.getTime() - mtimeMs > CHUNK_GRACE_MS) await rm(join(dist, name));
  }
}

async function buildBundles(): Promise<boolean> {
  const target = join(dist, MAIN);
  const sources = ['src', 'package-lock.json', 'scripts/build.ts'];
  if (await upToDate(target, sources)) return false;
  // What changes while we bundle must count as newer than the bundle.
  const started = new Date();
  const before = await modified(target);
  const temporary = join(dist, `.bundle-${process.pid}`);
  try {
    const chunks = await bundle(temporary);
    await utimes(join(temporary, MAIN), started, started);
    await moveIntoDist(temporary, chunks);
    await sweepChunks(chunks, before);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
  return true;
}

/** Compiles the program that is pid 1 in every sandbox: static, for it runs on an empty root. */
async function buildGuestInit(): Promise<boolean> {
  return await buildStatic('kiln-init', GUEST, [join(WIRE, 'wire.c')]);
}

const GUEST = join(top, 'src/guest');
const MACHINE = join(GUEST, 'machine');

/** Compiles pid 1 of a machine, which starts the init there: static, for nothing else is in its initramfs. */
async function buildStage0(): Promise<boolean> {
  const more = [join(GUEST, 'protocol.c'), join(WIRE, 'wire.c')];
  return await buildStatic('kiln-stage0', MACHINE, more, [GUEST]);
}

/** Compiles what stands between kiln and a machine on the host: static, since its root is almost empty. */
async function buildRelay(): Promise<boolean> {
  const more = ['connection.c', 'port.c', 'stream.c'].map((name) => join(MACHINE, name));
  return await buildStatic('kiln-relay', join(top, 'src/relay'), more, [MACHINE, GUEST]);
}

/** Compiles what reads layers of sandboxes as a confined child: static, so that it starts as fast as a program can. */
async function buildReader(): Promise<boolean> {
  return await buildStatic('kiln-changes', join(top, 'src/jobs/changes/reader'), [], [GUEST]);
}

/** Compiles the addon for system calls against the headers that Node's own distribution brings. */
async function buildAddon(): Promise<boolean> {
  const folder = join(top, 'src/host/calls/addon');
  const target = join(dist, 'kernel.node');
  if (await upToDate(target, [folder, WIRE, 'scripts/build.ts'])) return false;
  const headers = join(await realpath(process.execPath), '../../include/node');
  await compile(target, folder, ['-fPIC', '-shared', `-I${headers}`, `-I${WIRE}`, 'kernel.c']);
  return true;
}

/** Compiles the client: static, so that it starts as fast as a program can. */
async function buildClient(): Promise<boolean> {
  return await buildStatic('kiln', join(top, 'src/client'), []);
}

/** @param headers folders whose headers it takes, too */
async function buildStatic(
  name: string,
  folder: string,
  more: readonly string[],
  headers: readonly string[] = [],
): Promise<boolean> {
  const target = join(dist, name);
  if (await upToDate(target, [folder, ...headers, WIRE, 'scripts/build.ts'])) return false;
  const sources = (await readdir(folder)).filter((file) => file.endsWith('.c')).sort();
  const include = ['.', ...headers, WIRE].map((path) => `-I${path}`);
  await compile(target, folder, ['-static', ...include, ...sources, ...more]);
  return true;
}

/** Writes the declarations of the library into dist/types, for who installs the package. */
async function buildTypes(): Promise<boolean> {
  const target = join(dist, 'types/index.d.ts');
  if (await upToDate(target, ['src', 'scripts/packaging/tsconfig.types.json'])) return false;
  const started = new Date();
  await execa({
    cwd: top,
    preferLocal: true,
    stdio: ['ignore', 'inherit', 'inherit'],
  })`tsc -p scripts/packaging/tsconfig.types.json`;
  await utimes(target, started, started);
  return true;
}

/** When this is built, for pages that carry a date; SOURCE_DATE_EPOCH (seconds) for builds that are repeated. */
function buildDate(): string {
  const epoch = process.env.SOURCE_DATE_EPOCH;
  return new Date(epoch ? Number(epoch) * 1000 : Date.now()).toISOString().slice(0, 10);
}

/** Writes man pages and the completion scripts of shells, as packages install them. */
async function buildManPages(): Promise<boolean> {
  const folder = join(dist, 'man');
  const mark = join(folder, 'man1/kiln.1');
  const sources = ['src', 'docs', 'README.md', 'scripts/write', 'scripts/build.ts', 'package.json'];
  if (await upToDate(mark, sources)) return false;
  const started = new Date();
  const [{ describedByDefault }, { manPages }, { guidePages }, { SHELLS }, { SCRIPTS }, version] =
    await Promise.all([
      import('./write/describe.ts'),
      import('./write/man.ts'),
      import('./write/man-guides.ts'),
      import('./write/completions/scripts.ts'),
      import('../src/cli/completion.ts'),
      import('../src/host/state/paths.ts'),
    ]);
  const kiln = await describedByDefault();
  const temporary = join(dist, `.man-${process.pid}`);
  const settings = { date: buildDate(), version: version.KILN_VERSION };
  for (const section of [1, 5, 8]) {
    await mkdir(join(temporary, `man${section}`), { recursive: true });
  }
  for (const [name, text] of manPages(kiln, settings)) {
    await writeFile(join(temporary, 'man1', `${name}.1`), text);
  }
  for (const [name, text] of guidePages(settings)) {
    await writeFile(join(temporary, `man${name.at(-1)}`, name), text);
  }
  await mkdir(join(temporary, 'completions'));
  for (const [shell, name] of Object.entries(SCRIPTS)) {
    const text = SHELLS[shell as keyof typeof SCRIPTS](kiln);
    await writeFile(join(temporary, 'completions', name), text);
  }
  await utimes(join(temporary, 'man1/kiln.1'), started, started);
  for (const [from, to] of [
    [join(temporary, 'completions'), join(dist, 'completions')],
    [temporary, folder],
  ] as const) {
    await rm(to, { recursive: true, force: true });
    await rename(from, to);
  }
  return true;
}

/** Puts what evaluates mock's configurations into dist/mock. */
async function copyMockFiles(): Promise<boolean> {
  const source = join(top, 'src/jobs/mock/config/python');
  const folder = join(dist, 'mock');
  const names = (await readdir(source)).filter((name) => name.endsWith('.py'));
  if (await upToDate(join(folder, names[0] ?? ''), [source])) return false;
  await mkdir(folder, { recursive: true });
  for (const name of names.reverse()) {
    const temporary = join(folder, `.${name}-${process.pid}`);
    await writeFile(temporary, await readFile(join(source, name)));
    await rename(temporary, join(folder, name));
  }
  return true;
}

/** Puts what report.html is made of into dist/report, with uPlot for its plots. */
async function copyReportFiles(): Promise<boolean> {
  const own = join(top, 'src/report/browser');
  const plots = join(top, 'node_modules/uplot/dist');
  const files = {
    'report.js': join(own, 'report.js'),
    'report.css': join(own, 'report.css'),
    'uplot.js': join(plots, 'uPlot.iife.min.js'),
    'uplot.css': join(plots, 'uPlot.min.css'),
  };
  const folder = join(dist, 'report');
  if (await upToDate(join(folder, 'report.js'), [own, 'package-lock.json'])) return false;
  await mkdir(folder, { recursive: true });
  for (const [name, source] of Object.entries(files).reverse()) {
    const temporary = join(folder, `.${name}-${process.pid}`);
    await copyFile(source, temporary);
    await rename(temporary, join(folder, name));
  }
  return true;
}

/**
 * Writes dist/build-id, by which a client knows whether a daemon runs the same files: a digest of all programs.
 * The entries name their chunks, whose names have a digest, so chunks need not be read.
 */
async function writeBuildId(): Promise<void> {
  const hash = createHash('sha256');
  // What is in folders is for other programs: the types of the library.
  const entries = await readdir(dist, { withFileTypes: true });
  const names = entries.filter((entry) => entry.isFile()).map(({ name }) => name);
  for (const name of names.sort()) {
    if (name === 'build-id' || name.startsWith('.') || CHUNK.test(name)) continue;
    if (name === 'report' || name === 'types') continue;
    hash.update(name).update(await readFile(join(dist, name)));
  }
  const temporary = join(dist, `.build-id-${process.pid}`);
  await writeFile(temporary, `${hash.digest('hex').slice(0, 32)}\n`);
  await rename(temporary, join(dist, 'build-id'));
}

/** Compiles C into `target`, which a running kiln sees whole, old or new. */
async function compile(
  target: string,
  folder: string,
  arguments_: readonly string[],
): Promise<void> {
  const started = new Date();
  const temporary = join(dist, `.${basename(target)}-${process.pid}`);
  const language = ['-std=c17', '-D_GNU_SOURCE'];
  const warnings = ['-Wall', '-Wextra'];
  const hardening = ['-fstack-protector-strong', '-D_FORTIFY_SOURCE=2'];
  const options = [...language, '-O2', ...warnings, ...hardening, '-s', '-o', temporary];
  try {
    const stdio = ['ignore', 'inherit', 'inherit'] as const;
    await execa({ cwd: folder, stdio })('cc', [...options, ...arguments_]);
    await utimes(temporary, started, started);
    await rename(temporary, target);
  } finally {
    await rm(temporary, { force: true });
  }
}

const started = performance.now();
// Confined children read what is built, with ids that are nobody's.
process.umask(0o022);
await mkdir(dist, { recursive: true });
writeGenerated();
const results = await Promise.allSettled([
  ...[
    buildBundles(),
    buildFixtures(),
    buildGuestInit(),
    buildStage0(),
    buildRelay(),
    buildReader(),
    buildAddon(),
    buildClient(),
    copyReportFiles(),
    copyMockFiles(),
    buildTypes().then(async (made) => (await buildClientLibrary()) || made),
    buildManPages(),
  ],
]);
const failures = results.filter((result) => result.status === 'rejected');
if (failures.length === 0) {
  await writeBuildId();
  const made = results.some((result) => result.status === 'fulfilled' && result.value);
  const seconds = ((performance.now() - started) / 1000).toFixed(2);
  process.stdout.write(made ? `built dist/ in ${seconds} s\n` : 'dist/ is up to date\n');
} else {
  // rolldown's and cc's own messages name file and line; a stack of this script adds nothing.
  for (const { reason } of failures) {
    process.stderr.write(`build: ${reason instanceof Error ? reason.message : reason}\n`);
  }
  process.exitCode = 1;
}
