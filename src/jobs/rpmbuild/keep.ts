import { constants, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { CopyInItem } from '../../artifacts/copy-in.ts';
import { defined } from '../../defined.ts';
import type { Engine } from '../../engine.ts';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { openInTree } from '../../host/files/at.ts';
import type { HeldPath } from '../../host/files/held.ts';
import { readRecord, withFields, writeRecord } from '../../host/state/checked-file.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { imageFacts, readManifest } from '../../image/store/manifest.ts';
import { readSandboxRecord } from '../../sandbox/domain/sandbox-record.ts';
import type { KeptCommand } from '../../sandbox/door/plan.ts';
import { inSandbox } from '../run/run.ts';
import type { BuildJob } from './build-job.ts';
import { BuildSandbox } from './build-sandbox.ts';
import { makeSrpm } from './input.ts';
import { collected } from './outcome/collect.ts';
import { reported } from './outcome/finish.ts';
import { BuildFailure } from './outcome/outcome.ts';
import type { BuildHooks, BuildPhase, BuildReport, Steps } from './outcome/report.ts';
import { packageSigner, signStep } from './provenance/sign.ts';
import type { BuildRequest } from './request.ts';
import { runRpmbuild } from './rpmbuild.ts';

/** Directories beside the sources that rpmbuild makes in a package's build directory. */
const RPMBUILD_OWN = new Set(['BUILDROOT', 'SPECPARTS']);

interface KeptInput {
  readonly name: string;
  readonly sourceDigest?: string;
}

/**
 * The way of a build through a sandbox ({@link inSandbox}), which is kept after a failure of the package, if that is
 * asked for.
 */
export async function* inBuildSandbox<Value>(
  job: BuildJob,
  input: KeptInput,
  opening: { readonly open: () => Promise<BuildSandbox>; readonly copyIn: readonly CopyInItem[] },
  steps: (sandbox: BuildSandbox) => Steps<Value>,
): Steps<Value> {
  const { timeline, warn, signal, request } = job;
  signal.throwIfAborted();
  const { keep } = request;
  const way = { ...opening, keep, timeline, warn, signal };
  let more: Partial<BuildReport> = {};
  const taken = async (taking: Steps<Value>) => {
    let step = await taking.next();
    for (; step.done !== true; step = await taking.next()) more = { ...more, ...step.value };
    return step.value;
  };
  const { end, remove } = await inSandbox(way, async (sandbox) => {
    const [end] = await Promise.allSettled([taken(steps(sandbox))]);
    await job.closeEgress(sandbox);
    const failure: unknown = end.status === 'rejected' ? end.reason : undefined;
    if (keep === undefined || !(failure instanceof BuildFailure)) return { end, kept: undefined };
    more = { ...more, sandbox: sandbox.sandbox.id, kept: true };
    return { end, kept: noteKept(job, sandbox, input) };
  });
  yield more;
  await remove().catch(remove);
  if (end.status === 'rejected') throw end.reason;
  return end.value;
}

/** For {@link resumeBuild}. @returns what further commands are like */
function noteKept(job: BuildJob, sandbox: BuildSandbox, input: KeptInput): KeptCommand {
  const kept: KeptBuild = {
    ...input,
    // What kiln holds open, and the copies of a user's files, are gone with the job: the caller's own paths are kept.
    request: job.engine.renamed(job.request),
    failedPhase: job.timeline.failed ?? 'build',
    topDirectory: sandbox.topDirectory,
  };
  writeRecord(keptFile(job.engine.paths, sandbox.sandbox.id), kept);
  return { ...sandbox.command, workdir: buildDirectory(sandbox) };
}

function buildDirectory(sandbox: BuildSandbox): string {
  // Of a machine the files cannot be seen.
  if (sandbox.sandbox.tree.inside !== undefined) return sandbox.topDirectory;
  using root = closing(sandbox.sandbox.tree.openRoot());
  let path = `${sandbox.topDirectory}/BUILD`;
  for (let depth = 0; depth < 2; depth++) {
    const names = (directories(root.fd, path) ?? []).filter((name) => !RPMBUILD_OWN.has(name));
    if (names.length !== 1) break;
    path = `${path}/${names[0]}`;
  }
  return directories(root.fd, path) === undefined ? sandbox.topDirectory : path;
}

function directories(root: number, path: string): string[] | undefined {
  using folder = openInTree(root, path, constants.O_RDONLY | constants.O_DIRECTORY);
  if (folder === undefined) return undefined;
  const entries = readdirSync(`/proc/self/fd/${folder.fd}`, { withFileTypes: true });
  return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
}

/** What the caller called what a build needs again when it goes on. */
interface KeptFiles {
  readonly resultDirectory: string;
  readonly signKey?: string;
  readonly signPassphraseFile?: string;
  readonly provenanceKey?: string;
}

interface KeptBuild extends KeptInput {
  /** Its files are names of the caller's, which nobody has opened: no values of the types that a request has. */
  readonly request: Omit<BuildRequest, keyof KeptFiles> & KeptFiles;
  readonly failedPhase: string;
  readonly topDirectory: string;
}

function keptFile(paths: StatePaths, sandbox: string): string {
  return join(paths.sandboxes, sandbox, 'build.json');
}

const takeKept = withFields<KeptBuild>({
  request: 'object',
  name: 'string',
  failedPhase: 'string',
  topDirectory: 'string',
});

function readKept(paths: StatePaths, sandbox: string): KeptBuild {
  const kept = /^[0-9a-f]+$/.test(sandbox)
    ? readRecord(keptFile(paths, sandbox), takeKept)
    : undefined;
  if (kept !== undefined) return kept;
  throw new KilnError('E_NO_SANDBOX', `no build was kept as ${sandbox}`, {
    hint: '`kiln ps` lists what is kept; `kiln build --keep` keeps the sandbox of a build that fails',
  });
}

/** For root's client to open them again. @throws KilnError E_NO_SANDBOX; E_ARGUMENT for what a user's lacks */
export function keptFiles(
  { paths }: Engine,
  sandbox: string,
  overrides: Partial<BuildRequest>,
): KeptFiles {
  const { request } = readKept(paths, sandbox);
  if (isUsers(paths, sandbox)) requireFiles(request, overrides);
  return request;
}

/** The keys of a kept build, opened again, but for those that are named again. */
export async function keysAgain(
  kept: KeptFiles,
  { signKey, provenanceKey }: Partial<BuildRequest>,
  open: (path: string) => Promise<HeldPath>,
): Promise<Partial<BuildRequest>> {
  const again = async (path: string | undefined) =>
    path === undefined ? undefined : await open(path);
  const key = signKey === undefined ? await again(kept.signKey) : undefined;
  return defined({
    signKey: key,
    signPassphraseFile: key && (await again(kept.signPassphraseFile)),
    provenanceKey: provenanceKey === undefined ? await again(kept.provenanceKey) : undefined,
  });
}

function isUsers(paths: StatePaths, sandbox: string): boolean {
  return readSandboxRecord(join(paths.sandboxes, sandbox))?.owner !== undefined;
}

const BEFORE_COMPILE: ReadonlySet<string> = new Set<BuildPhase>([
  'srpm',
  'buildrequires',
  'dynamic-buildrequires',
  'prep',
]);

/**
 * Goes on with a build in the sandbox that it failed in, with the changes that were made there: the source package
 * is made anew of SPECS and SOURCES, and rpmbuild starts with %prep if it had failed there, else after it. If it
 * fails again, the sandbox is kept once more.
 * @throws KilnError E_NO_SANDBOX for a sandbox that no build was kept in
 */
export async function resumeBuild(
  engine: Engine,
  sandbox: string,
  overrides: Partial<BuildRequest> & { readonly resultDirectory: HeldPath },
  hooks: BuildHooks = {},
): Promise<BuildReport> {
  const kept = readKept(engine.paths, sandbox);
  const { signKey: _, signPassphraseFile: _file, provenanceKey: _key, ...same } = kept.request;
  const request: BuildRequest = { ...same, ...overrides };
  if (isUsers(engine.paths, sandbox)) requireFiles(kept.request, overrides);
  const { name, sourceDigest } = kept;
  const before = { name, sourceDigest, image: imageOf(engine.paths, sandbox) };
  return await reported(engine, request, hooks, (job) => goOn(job, sandbox, kept), before);
}

/**
 * Of a user's build only the names of files are kept. The user's client has not opened what they name now.
 * @throws KilnError E_ARGUMENT
 */
function requireFiles(
  { signKey, provenanceKey }: KeptBuild['request'],
  given: Partial<BuildRequest>,
): void {
  const isMissing = {
    '--resultdir': given.resultDirectory === undefined,
    '--sign-key': signKey !== undefined && given.signKey === undefined,
    '--provenance-key': provenanceKey !== undefined && given.provenanceKey === undefined,
  };
  const missing = Object.entries(isMissing).flatMap(([name, is]) => (is ? [name] : []));
  if (missing.length === 0) return;
  throw new KilnError('E_ARGUMENT', `a user’s build was kept without ${missing.join(', ')}`, {
    hint: 'name them again beside --resume',
  });
}

async function* goOn(job: BuildJob, id: string, kept: KeptBuild): Steps {
  const { engine } = job;
  const signer = await packageSigner(engine, job.request);
  const open = () => BuildSandbox.reopen(engine, id, kept.topDirectory);
  const built = yield* inBuildSandbox(job, kept, { open, copyIn: [] }, async function* (sandbox) {
    yield { sandbox: id };
    return yield* collected(job, sandbox, buildOn(job, sandbox, kept));
  });
  yield await signStep(job, signer, built);
}

async function* buildOn(job: BuildJob, sandbox: BuildSandbox, kept: KeptBuild): Steps {
  const { requires, dynamic } = await makeSrpm(job, sandbox, { unpack: false });
  yield { buildRequires: requires };
  const prepDone = !BEFORE_COMPILE.has(kept.failedPhase);
  yield { end: await runRpmbuild(job, sandbox, { prepDone, dynamic }) };
}

function imageOf(paths: StatePaths, sandbox: string): BuildReport['image'] {
  const id = readSandboxRecord(join(paths.sandboxes, sandbox))?.image;
  const manifest = id === undefined ? undefined : readManifest(paths, id);
  return manifest && imageFacts(manifest);
}
