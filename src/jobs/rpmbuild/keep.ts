import { constants, readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { defined } from '../../defined.ts';
import type { Engine } from '../../engine.ts';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { openInTree } from '../../host/files/at.ts';
import { readRecord, withFields, writeRecord } from '../../host/state/checked-file.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { readManifest } from '../../image/store/manifest.ts';
import { readSandboxRecord } from '../../sandbox/domain/sandbox-record.ts';
import { packageSigner, signCollected } from '../provenance/sign.ts';
import { BuildRun } from './build-run.ts';
import { BuildSandbox } from './build-sandbox.ts';
import { makeSrpm } from './input.ts';
import { finished } from './outcome/finish.ts';
import { BuildFailure } from './outcome/outcome.ts';
import type { BuildHooks, BuildPhase, BuildReport } from './outcome/report.ts';
import type { BuildRequest } from './request.ts';
import { runRpmbuild, takePackages } from './rpmbuild.ts';

/** Directories beside the sources that rpmbuild makes in a package's build directory. */
const RPMBUILD_OWN = new Set(['BUILDROOT', 'SPECPARTS']);

export async function leaveSandbox(
  run: BuildRun,
  sandbox: BuildSandbox,
  failure: unknown,
): Promise<void> {
  const { keep } = run.request;
  if (keep === undefined || !(failure instanceof BuildFailure)) {
    await run.phase('destroy', () => sandbox.close()).catch(() => sandbox.close());
    return;
  }
  const kept: KeptBuild = {
    // What kiln holds open, and the copies of a user's files, are gone with the job: the caller's own paths are kept.
    request: run.engine.renamed(run.request),
    name: run.name ?? basename(run.request.source.path),
    ...defined({ sourceDigest: run.sourceDigest }),
    failedPhase: run.failedPhase ?? 'build',
    topDirectory: sandbox.topDirectory,
  };
  writeRecord(keptFile(run.engine.paths, sandbox.sandbox.id), kept);
  await sandbox.keep(keep, buildDirectory(sandbox));
  run.kept = sandbox.sandbox.id;
}

function buildDirectory(sandbox: BuildSandbox): string {
  using root = closing(sandbox.sandbox.openRoot());
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

interface KeptBuild {
  /** With the caller's own paths. */
  readonly request: Omit<BuildRequest, keyof KeptFiles> & KeptFiles;
  readonly name: string;
  readonly sourceDigest?: string;
  readonly failedPhase: BuildPhase;
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
  { paths }: Pick<Engine, 'paths'>,
  sandbox: string,
  overrides: Partial<BuildRequest>,
): KeptFiles {
  const { request } = readKept(paths, sandbox);
  if (isUsers(paths, sandbox)) requireFiles(request, overrides);
  return request;
}

function isUsers(paths: StatePaths, sandbox: string): boolean {
  return readSandboxRecord(join(paths.sandboxes, sandbox))?.owner !== undefined;
}

const BEFORE_COMPILE = new Set<BuildPhase>([
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
  overrides: Partial<BuildRequest> & Pick<BuildRequest, 'resultDirectory'>,
  hooks: BuildHooks = {},
): Promise<BuildReport> {
  const kept = readKept(engine.paths, sandbox);
  const { signKey: _, signPassphraseFile: _file, provenanceKey: _key, ...same } = kept.request;
  const request: BuildRequest = { ...same, ...overrides };
  if (isUsers(engine.paths, sandbox)) requireFiles(kept.request, overrides);
  const run = new BuildRun(engine, request, hooks);
  run.name = kept.name;
  run.sourceDigest = kept.sourceDigest;
  run.image = imageOf(engine.paths, sandbox);
  return await finished(run, async () => {
    run.signer = await packageSigner(engine, request);
    await goOn(run, sandbox, kept);
  });
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

async function goOn(run: BuildRun, id: string, kept: KeptBuild): Promise<void> {
  const { engine } = run;
  const sandbox = await run.phase('sandbox', () =>
    BuildSandbox.reopen(engine, id, kept.topDirectory),
  );
  run.sandbox = sandbox;
  try {
    const { requires, dynamic } = await makeSrpm(run, sandbox, { unpack: false });
    run.requires = requires;
    const prepDone = !BEFORE_COMPILE.has(kept.failedPhase);
    await runRpmbuild(run, sandbox, { prepDone, dynamic });
    await takePackages(run, sandbox);
  } catch (error) {
    run.usage = sandbox.sandbox.usage();
    await leaveSandbox(run, sandbox, error);
    throw error;
  }
  run.usage = sandbox.sandbox.usage();
  await leaveSandbox(run, sandbox, undefined);
  await signCollected(run);
}

function imageOf(paths: StatePaths, sandbox: string): BuildReport['image'] {
  const id = readSandboxRecord(join(paths.sandboxes, sandbox))?.image;
  return id === undefined ? undefined : { id, name: readManifest(paths, id)?.name ?? '' };
}
