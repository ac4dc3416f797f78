import { homedir } from 'node:os';
import { resolve } from 'node:path';
import type { OwnEngine } from '../../engine.ts';
import { resolveImage } from '../../image/find.ts';
import { openImage } from '../../image/open.ts';
import { buildNamed, readRecipe } from '../../image/plan.ts';
import { describeProgress, type OnImageProgress } from '../../image/progress.ts';
import type { LeasedImage } from '../../image/store/images.ts';
import { type Chroot, type ChrootRequest, openChroot } from '../../jobs/mock/chroot.ts';
import { formatPlace } from '../../jobs/mock/config/language/problem.ts';
import type { PackageSources } from '../../jobs/mock/root/install.ts';
import { MockRoot } from '../../jobs/mock/root/root.ts';
import { addedRepository } from '../../jobs/rpmbuild/buildroot/add-repository.ts';
import type { Repository } from '../../packages/repository/configuration.ts';
import type { Caller } from '../caller/caller.ts';
import type { CommandLine } from './command-line.ts';
import type { MockLog } from './log.ts';

/** One call of kiln-mock. */
export interface MockSession {
  readonly caller: Caller;
  readonly engine: OwnEngine;
  readonly line: CommandLine;
  readonly log: MockLog;
  readonly signal: AbortSignal;
}

/** A path of the command line; `~` is the caller's home, as in mock. */
export function hostPath(text: string): string {
  return resolve(text.replace(/^~(?=\/|$)/, homedir()));
}

/** The chroot that `-r` and the options about configurations choose. */
export function chrootRequest({ line }: Pick<MockSession, 'line'>): ChrootRequest {
  const resultDirectory = line.value('resultdir');
  return {
    name: line.value('root') ?? 'default',
    configDirectory: line.value('configdir'),
    overrides: line.values('config-opts'),
    uniqueext: line.value('uniqueext'),
    resultDirectory: resultDirectory?.replace(/^~(?=\/|$)/, homedir()),
    arch: line.value('arch'),
    target: line.value('target'),
    switches: line
      .of('enablerepo', 'disablerepo')
      .flatMap(({ name, value = '' }) =>
        value.split(',').map((pattern) => ({ pattern, enabled: name === 'enablerepo' })),
      ),
    plugins: {
      disabled: line.values('disable-plugin'),
      enabled: line.values('enable-plugin'),
      settings: line.values('plugin-option'),
    },
  };
}

/** The session's chroot; unsupported settings of its configuration are reported. */
export async function sessionChroot(session: MockSession): Promise<Chroot> {
  const chroot = await openChroot(session.engine, chrootRequest(session));
  for (const { message, place } of chroot.warnings) {
    session.log.warning(place === undefined ? message : `${formatPlace(place)}: ${message}`);
  }
  return chroot;
}

/** Locks the root of a chroot, whether it exists or not. */
export async function lockRoot(session: MockSession, chroot: Chroot): Promise<MockRoot> {
  return await MockRoot.lock(session.engine, chroot.root);
}

/** Opens the root, or makes it. */
export async function initRoot(
  session: MockSession,
  chroot: Chroot,
  root: MockRoot,
): Promise<MockRoot> {
  const { log } = session;
  const opened = await root.open((reason) => log.warning(reason));
  if (opened !== undefined) return opened;
  return await log.state('chroot init', async () =>
    root.make(await openBaseImage(session, chroot)),
  );
}

/**
 * Leases the image of a chroot. Unless offline, its packages are the repositories' current ones, as in mock.
 */
export async function openBaseImage(
  { engine, line, signal, log }: MockSession,
  chroot: Chroot,
): Promise<LeasedImage> {
  const onProgress: OnImageProgress = (progress) => log.output(`${describeProgress(progress)}\n`);
  const options = { signal, onProgress };
  const named = await resolveImage(engine, chroot.recipe, engine.cwd());
  return line.has('offline') || named.kind === 'image'
    ? await openImage(engine, chroot.recipe, options)
    : await buildNamed(engine, named, options);
}

/** Opens the session's root, or makes it, and runs `act` with it. */
export async function withRoot<Result>(
  session: MockSession,
  act: (root: MockRoot, chroot: Chroot) => Promise<Result>,
): Promise<Result> {
  const chroot = await sessionChroot(session);
  await using root = await lockRoot(session, chroot);
  return await act(await initRoot(session, chroot, root), chroot);
}

/** The repositories of `--addrepo`. */
export function addedRepositories({ line, caller }: MockSession, arch: string): Repository[] {
  return line
    .values('addrepo')
    .map((text, index) => addedRepository(text, index, arch, caller.cwd()));
}

/** The repositories of a root's packages. */
export async function packageSources(
  session: MockSession,
  chroot: Chroot,
): Promise<PackageSources> {
  const recipe = await readRecipe(session.engine, chroot.recipe);
  const { arch, repositories, exclude, modules, recommends } = recipe;
  const enabled = repositories.filter(({ id }) => chroot.switchedOn.includes(id));
  return {
    arch,
    repositories,
    added: addedRepositories(session, arch),
    passing: enabled.map(({ id }) => id),
    exclude,
    modules,
    recommends,
    refresh: session.line.has('offline') ? 'never' : 'auto',
  };
}
