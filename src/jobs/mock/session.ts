import { homedir } from 'node:os';
import { resolve } from 'node:path';
import type { OwnEngine } from '../../engine.ts';
import { splitArchitecture } from '../../host/process/architecture.ts';
import { openImage, renewImage } from '../../image/open.ts';
import { describeProgress, type OnImageProgress } from '../../image/progress.ts';
import { readRecipe } from '../../image/read-recipe.ts';
import type { LeasedImage } from '../../image/store/images.ts';
import type { Repository } from '../../packages/repository/configuration.ts';
import type { Bind } from '../../sandbox/policy/specification.ts';
import { type CallerPaths, heldBinds } from '../../users/caller-paths.ts';
import { forbiddenError } from '../../users/configuration.ts';
import { addedRepository } from '../rpmbuild/request.ts';
import { type Chroot, type ChrootRequest, openChroot } from './chroot.ts';
import type { SignPlugin } from './config/plugins.ts';
import { formatPlace } from './config/values.ts';
import type { PackageSources } from './root/install.ts';
import { MockRoot } from './root/root.ts';

/** mock's options, by their names in mock(1), and arguments. */
export interface MockLine {
  readonly mode: string;
  readonly args: readonly string[];
  has(flag: string): boolean;
  value(name: string): string | undefined;
  values(name: string): readonly string[];
  of(
    ...names: readonly string[]
  ): readonly { readonly name: string; readonly value: string | undefined }[];
}

/** Hears what goes on, in mock's terms. */
export interface MockEvents {
  info(message: string): void;
  warning(warning: { readonly code: string; readonly message: string }): void;
  error(message: string): void;
  /** @param status with which the call ends because of it */
  failure(error: unknown, status: number): void;
  start(what: string): void;
  finish(what: string): void;
  /** Tells of start and finish; a failure has no finish. */
  state<Result>(what: string, act: () => Promise<Result>): Promise<Result>;
  output(chunk: string | Buffer): void;
  hasShown(lines: readonly string[]): boolean;
}

export interface MockSession {
  readonly caller: {
    readonly ids: { readonly uid: number; readonly gid: number };
    readonly paths: CallerPaths;
    readonly env: Readonly<Record<string, string | undefined>>;
  };
  readonly engine: OwnEngine;
  readonly line: MockLine;
  readonly log: MockEvents;
  readonly signal: AbortSignal;
  /** Writes to standard output. */
  readonly print: (text: string) => void;
}

export interface ChrootSession extends MockSession {
  readonly chroot: Chroot;
  /** Those of the configuration, for what runs in the root. */
  readonly binds: readonly Bind[];
}

export interface RootSession extends ChrootSession {
  readonly root: MockRoot;
}

/** A path of the command line that nobody has opened yet; `~` is the caller's home, as in mock. */
export function hostPath(text: string): string {
  return resolve(text.replace(/^~(?=\/|$)/, homedir()));
}

export function chrootRequest({ line }: MockSession): ChrootRequest {
  const resultDirectory = line.value('resultdir');
  return {
    name: line.value('root') ?? 'default',
    configDirectory: line.value('configdir'),
    overrides: line.values('config-opts'),
    uniqueext: line.value('uniqueext'),
    resultDirectory: resultDirectory?.replace(/^~(?=\/|$)/, homedir()),
    arch: line.value('arch'),
    forced: line.value('forcearch'),
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

/** Modes that show the root more of the host, where the configuration says so. */
const ENTERING = [
  'rebuild',
  'buildsrpm',
  'calculate-build-dependencies',
  'chain',
  'hermetic-build',
  'shell',
  'chroot',
];

/** Modes that run a command of the caller's in a root. */
const ENTERS = new Set(['chroot', 'shell']);

export async function withChroot(
  session: MockSession,
  request = chrootRequest(session),
): Promise<ChrootSession> {
  const chroot = await openChroot(session.engine, request);
  const areWritable = chroot.bindsAreCallers && ENTERS.has(session.line.mode);
  for (const { message, place, isOfBind } of chroot.warnings) {
    if (isOfBind === true && areWritable) continue;
    const where = place === undefined ? '' : `${formatPlace(place)}: `;
    session.log.warning({ code: 'mock-config', message: `${where}${message}` });
  }
  // Who only removes may, whatever root has given the configuration since.
  const removes = ['clean', 'orphanskill'].includes(session.line.mode);
  if (session.engine.owner !== undefined && !removes) refuseRoots(chroot);
  const isEntered = ENTERING.includes(session.line.mode);
  const binds = isEntered ? await heldBinds(chroot.binds, session.caller.paths) : [];
  return { ...session, chroot, binds };
}

interface RootsOwn {
  readonly root: string;
  readonly network: boolean;
  readonly sign: SignPlugin | undefined;
  readonly binds: Chroot['binds'];
}

/** What a configuration gives to root's calls only. @throws KilnError E_FORBIDDEN */
export function refuseRoots({ root, network, sign, binds }: RootsOwn): void {
  if (network)
    throw forbiddenError(`the host's network for ${root}`, 'the configuration asks for it');
  if (sign !== undefined) {
    throw forbiddenError('a configuration with the plugin sign', 'its key is root’s', {
      hint: `build without it, and sign with a key of your own: \`kiln build --sign-key\``,
    });
  }
  if (binds.length > 0) {
    throw forbiddenError(
      'a configuration with the plugin bind_mount',
      'it shows what root may read',
    );
  }
}

export async function initRoot(at: RootSession): Promise<MockRoot> {
  const { log, root } = at;
  const opened = await root.open((message) => log.warning({ code: 'mock-root', message }));
  if (opened !== undefined) return opened;
  return await log.state('chroot init', async () => root.make(await openBaseImage(at)));
}

/** Leases the image of a chroot. Unless offline, its packages are the repositories' current ones, as in mock. */
export async function openBaseImage(at: ChrootSession): Promise<LeasedImage> {
  const { engine, signal, log, chroot } = at;
  const onProgress: OnImageProgress = (progress) => log.output(`${describeProgress(progress)}\n`);
  const open = isOffline(at) ? openImage : renewImage;
  return await open(engine, chroot.recipe, { signal, onProgress });
}

export async function withRoot<Result>(
  session: MockSession,
  act: (at: RootSession) => Promise<Result>,
): Promise<Result> {
  const at = await withChroot(session);
  await using root = await MockRoot.lock(session.engine, at.chroot.root);
  return await act({ ...at, root: await initRoot({ ...at, root }) });
}

export function addedRepositories({ line, engine }: MockSession, arch: string): Repository[] {
  return line
    .values('addrepo')
    .map((text, index) => addedRepository(text, index, arch, engine.cwd()));
}

export function isOffline({ line, chroot }: ChrootSession): boolean {
  return line.has('offline') || chroot.offline;
}

export async function packageSources(at: ChrootSession): Promise<PackageSources> {
  const { name: path, arch: wanted } = splitArchitecture(at.chroot.recipe);
  const recipe = await readRecipe(at.engine, path, wanted);
  const { arch, repositories, exclude, modules, recommends } = recipe;
  const enabled = repositories.filter(({ id }) => at.chroot.switchedOn.includes(id));
  return {
    ...{ arch, repositories, exclude, modules, recommends },
    added: addedRepositories(at, arch),
    passing: enabled.map(({ id }) => id),
    refresh: isOffline(at) ? 'never' : 'auto',
  };
}
