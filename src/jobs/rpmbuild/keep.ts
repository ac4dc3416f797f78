import { closeSync, constants, readdirSync } from 'node:fs';
import { openInTree } from '../../image/tree/path.ts';
import type { BuildRun } from './build-run.ts';
import type { BuildSandbox } from './build-sandbox.ts';
import { rememberBuild } from './kept-build.ts';
import { BuildFailure } from './outcome/outcome.ts';

/** Directories beside the sources that rpmbuild makes in a package's build directory. */
const RPMBUILD_OWN = new Set(['BUILDROOT', 'SPECPARTS']);

/** Destroys a build's sandbox, or keeps it when the build failed in it and that was asked for. */
export async function leaveSandbox(
  run: BuildRun,
  sandbox: BuildSandbox,
  failure: unknown,
): Promise<void> {
  const { keepSeconds } = run.request;
  if (keepSeconds === undefined || !(failure instanceof BuildFailure)) {
    await run.phase('destroy', () => sandbox.close()).catch(() => sandbox.close());
    return;
  }
  await rememberBuild(run.engine.paths, sandbox.sandbox.id, {
    request: run.request,
    name: run.name ?? run.request.source.path.replace(/^.*\//, ''),
    failedPhase: run.failedPhase ?? 'build',
    topDirectory: sandbox.topDirectory,
  });
  await sandbox.keep(keepSeconds, buildDirectory(sandbox));
  run.kept = sandbox.sandbox.id;
}

/** Where a person wants to be after a failure: in the unpacked sources, as far as they are there. */
function buildDirectory(sandbox: BuildSandbox): string {
  const root = sandbox.sandbox.openRoot();
  try {
    let path = `${sandbox.topDirectory}/BUILD`;
    for (let depth = 0; depth < 2; depth++) {
      const below = onlyDirectory(root, path);
      if (below === undefined) break;
      path = `${path}/${below}`;
    }
    return directories(root, path) === undefined ? sandbox.topDirectory : path;
  } finally {
    closeSync(root);
  }
}

function onlyDirectory(root: number, path: string): string | undefined {
  const names = (directories(root, path) ?? []).filter((name) => !RPMBUILD_OWN.has(name));
  return names.length === 1 ? names[0] : undefined;
}

function directories(root: number, path: string): string[] | undefined {
  const fd = openInTree(root, path, constants.O_RDONLY | constants.O_DIRECTORY);
  if (fd === undefined) return undefined;
  try {
    const entries = readdirSync(`/proc/self/fd/${fd}`, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
  } finally {
    closeSync(fd);
  }
}
