import { open } from 'node:fs/promises';
import { isKilnCode, KilnError } from '../../errors.ts';
import { OUT_OF_MEMORY_HINT } from '../../host/cgroup/work-group.ts';
import { askConfined, FAULTS_OF_A_FILE } from '../../host/confine/run.ts';
import { lockedRepository } from '../repository/configuration.ts';
import { MAX_PACKAGE } from '../repository/fetch-packages.ts';
import { LOCK_FORMAT, type Lock, type LockedPackage, lockOf } from '../repository/lock/lock.ts';
import type { Group, GroupPackage } from '../repository/metadata/read-index.ts';
import type { OpenRepository, RepositorySet } from '../repository/open.ts';
import { refreshRepository } from '../repository/refresh.ts';
import { lockAccess } from '../repository/transport/access.ts';
import { resolveLocation } from '../repository/transport/location.ts';
import type { DownloadContext } from '../repository/transport/transfer.ts';
import { type ConvertedPart, dropConverted, ensureConverted, readGroups } from './converted.ts';
import type { ExpandedGroups, SolveInput } from './solve-input.ts';
import {
  type SolvedPackage,
  type SolveOutput,
  solverError,
  takeSolveOutput,
} from './solve-output.ts';
import type { Solution, SolveRequest } from './solve-request.ts';

/** 60,000 packages take 150 MB; a hostile problem may take any time. */
const LIMITS = { memory: 4 * 2 ** 30, cpuSeconds: 300, wallMs: 600_000, fileSize: 0 };

export async function solveAnew(
  set: RepositorySet,
  request: SolveRequest,
  context: DownloadContext,
): Promise<Solution> {
  const primaries = await convertAll(set, 'primary', context);
  const modules = await convertAll(set, 'modules', context);
  const groups = request.install.filter((spec) => spec.startsWith('@'));
  const asked = groups.length === 0 ? [] : set.members;
  const known = await Promise.all(asked.map((member) => readGroups(member, context)));
  const wanted = groups.map((spec) => spec.slice(1));
  const expanded = expandGroups(known.flat(), wanted);
  const ask = async (filelists: ReadonlyMap<string, string> | undefined) => {
    const input = solveInput(set, request, expanded, { filelists, modules });
    return await runSolver(set, input, { primaries, filelists, modules }, context);
  };
  let answer = await ask(undefined);
  if (answer.kind === 'damaged') {
    await Promise.all(set.members.map((member) => dropConverted(member, context)));
    for (const part of ['primary', 'modules'] as const) await convertAll(set, part, context);
    answer = await ask(undefined);
  }
  if (answer.kind === 'incomplete') answer = await ask(await convertAll(set, 'filelists', context));
  if (answer.kind !== 'solved') throw solverError(answer);
  if (answer.packages.length === 0 && answer.idle.length > 0) throw emptyRequestError(answer.idle);
  const warnings = [
    ...answer.missing.map((name) => `no repository has ${name}, which is in a requested group`),
    ...answer.gone.map((nevra) => `no repository has ${nevra} any more`),
    ...answer.warnings,
    ...answer.idle.map((text) => `${text} asks for nothing here: its condition is not met`),
  ];
  return { lock: makeLock(set, request, answer.packages), warnings };
}

function emptyRequestError(idle: readonly string[]): KilnError {
  const many = idle.length > 1;
  return new KilnError(
    'E_SOLVER_REQUEST',
    `${idle.join(' and ')} ${many ? 'ask' : 'asks'} for nothing: ${many ? 'their conditions are' : 'its condition is'} not met, and nothing else is asked for`,
    { hint: 'name the package itself, or ask for what the condition is about as well' },
  );
}

interface Converted extends Supplements {
  readonly primaries: ReadonlyMap<string, string>;
}

interface Supplements {
  readonly filelists: ReadonlyMap<string, string> | undefined;
  readonly modules: ReadonlyMap<string, string>;
}

async function convertAll(
  set: RepositorySet,
  part: ConvertedPart,
  context: DownloadContext,
): Promise<Map<string, string>> {
  const paths = new Map<string, string>();
  const members = set.members.filter(({ index }) => index.repomd[part] !== undefined);
  await Promise.all(
    members.map(async (member) => {
      const { id } = member.repository;
      paths.set(id, await convertOrRenew(set, member, part, context));
    }),
  );
  return paths;
}

async function convertOrRenew(
  set: RepositorySet,
  member: OpenRepository,
  part: ConvertedPart,
  context: DownloadContext,
): Promise<string> {
  try {
    return await ensureConverted(member, part, context);
  } catch (error) {
    // The repository was published anew since its repomd.xml was fetched: start over with it.
    const gone = isKilnCode(error, 'E_DOWNLOAD');
    if (!gone || part !== 'primary' || context.signal?.aborted) throw error;
    const { repository } = member;
    const fresh = await refreshRepository(repository, 'always', set.context).catch(() => undefined);
    if (fresh === undefined) throw error;
    const renewed = { repository, ...fresh };
    set.members[set.members.indexOf(member)] = renewed;
    if (fresh.index.digest === member.index.digest) throw error;
    return await ensureConverted(renewed, part, context);
  }
}

function solveInput(
  set: RepositorySet,
  request: SolveRequest,
  expanded: ExpandedGroups,
  { filelists, modules }: Supplements,
): SolveInput {
  return {
    arch: request.arch,
    multilib: request.multilib ?? false,
    repositories: set.members.map(({ repository }) => ({
      id: repository.id,
      priority: repository.priority,
      cost: repository.cost,
      excludepkgs: repository.excludepkgs,
      includepkgs: repository.includepkgs,
      filelists: filelists?.has(repository.id) ?? false,
      modules: modules.has(repository.id),
      moduleHotfixes: repository.moduleHotfixes,
    })),
    complete: filelists !== undefined,
    install: request.install.filter((spec) => !spec.startsWith('@')),
    members: expanded.members,
    conditional: expanded.conditional,
    requires: request.requires ?? [],
    exclude: request.exclude ?? [],
    modules: { enable: [], disable: [], install: [], obsoletes: false, ...request.modules },
    recommends: request.recommends ?? false,
    keep: (request.keep?.packages ?? []).map(({ nevra, digest }) => ({ nevra, digest })),
  };
}

async function runSolver(
  set: RepositorySet,
  input: SolveInput,
  { primaries, filelists, modules }: Converted,
  context: DownloadContext,
): Promise<SolveOutput> {
  await using stack = new AsyncDisposableStack();
  const fds: number[] = [];
  for (const { repository } of set.members) {
    for (const part of [primaries, filelists, modules]) {
      const path = part?.get(repository.id);
      if (path !== undefined) fds.push(stack.use(await open(path)).fd);
    }
  }
  try {
    return await askConfined({
      task: 'solver-solve',
      input,
      validate: takeSolveOutput,
      fds,
      limits: LIMITS,
      signal: context.signal,
    });
  } catch (error) {
    throw isKilnCode(error, ...FAULTS_OF_A_FILE) ? beyondSolverError(set, error) : error;
  }
}

/** Which repository it was cannot be told: they are solved together. */
function beyondSolverError({ members }: RepositorySet, error: KilnError): KilnError {
  const ids = members.map(({ repository }) => repository.id).join(', ');
  const { code, message, cause, details } = error;
  const found =
    'their metadata is probably broken or hostile: leave out one repository after the other to find out whose';
  return new KilnError(code, `solving for packages of ${ids}: ${message}`, {
    hint: error.hint === OUT_OF_MEMORY_HINT ? OUT_OF_MEMORY_HINT : found,
    details,
    cause,
  });
}

/** What dnf installs of a group unless told otherwise (its `group_package_types`). */
const INSTALLED: readonly GroupPackage['type'][] = ['mandatory', 'default', 'conditional'];

/**
 * Replaces `@group` and `@^environment` (ids or names, without the @) by their packages. A group that several
 * repositories know is the union of what they say.
 * @throws KilnError E_SOLVER_NO_MATCH for a group that no repository knows.
 */
export function expandGroups(known: readonly Group[], wanted: readonly string[]): ExpandedGroups {
  const members = new Set<string>();
  const conditional = new Map<string, { name: string; requires: string }>();
  for (const text of wanted) {
    const groups = findGroups(known, text);
    if (groups.length === 0) throw noGroupError(known, text);
    for (const { name, type, requires } of groups.flatMap((group) => group.packages)) {
      if (!INSTALLED.includes(type)) continue;
      if (type !== 'conditional') members.add(name);
      else if (requires) conditional.set(`${name} if ${requires}`, { name, requires });
    }
  }
  return { members: [...members], conditional: [...conditional.values()] };
}

function findGroups(known: readonly Group[], text: string): Group[] {
  const wanted = text.replace(/^\^/, '');
  const direct = known.filter(
    ({ id, name }) => id === wanted || name.toLowerCase() === wanted.toLowerCase(),
  );
  const inner = direct.flatMap(({ groups }) => groups);
  return [...direct, ...known.filter(({ kind, id }) => kind === 'group' && inner.includes(id))];
}

function noGroupError(known: readonly Group[], text: string): KilnError {
  const ids = [...new Set(known.map(({ id }) => id))].sort();
  const near = ids.filter((id) => id.includes(text) || text.includes(id)).slice(0, 5);
  const some = near.length > 0 ? near : ids.slice(0, 10);
  return new KilnError('E_SOLVER_NO_MATCH', `no repository has a group called ${text}`, {
    hint:
      some.length === 0
        ? 'none of these repositories has groups (comps) at all'
        : `groups there are: ${some.join(', ')}${ids.length > some.length ? ', …' : ''}`,
    details: { group: text },
  });
}

/** Checks what the solver's child said: it read untrusted bytes. @throws KilnError E_REPOSITORY_METADATA */
function makeLock(
  set: RepositorySet,
  request: SolveRequest,
  packages: readonly SolvedPackage[],
): Lock {
  const all = set.members.map(({ repository }) => repository);
  const local = new Set(
    all
      .filter(({ source, below }) => source.kind === 'directory' && below === undefined)
      .map(({ id }) => id),
  );
  const locked = packages.map((found) => lockPackage(found, local.has(found.repository)));
  const used = new Set(locked.map(({ repository }) => repository));
  const repositories = all.filter(({ id }) => used.has(id)).map(lockedRepository);
  return lockOf({
    format: LOCK_FORMAT,
    arch: request.arch,
    requested: [...request.install, ...(request.requires ?? [])],
    repositories,
    packages: locked,
    ...lockAccess(all),
  });
}

function lockPackage(found: SolvedPackage, local: boolean): LockedPackage {
  const { nevra, name, arch, digest, size, repository } = found;
  const { epoch, version, release } = splitEvr(found);
  if (!/^sha(256|384|512):[0-9a-f]+$/.test(digest)) {
    throw brokenError(
      found,
      `it has the checksum type '${digest.split(':')[0]}', sha256 is the least`,
    );
  }
  if (size <= 0 || size > MAX_PACKAGE) {
    throw brokenError(found, `it has ${size} bytes, from 1 to ${MAX_PACKAGE} can be had`);
  }
  const location = resolveLocation(found, local, aboutFound(found));
  return { nevra, name, epoch, version, release, arch, digest, size, location, repository };
}

/** libsolv writes `[epoch:]version-release` and leaves epoch 0 out. */
function splitEvr(found: SolvedPackage): { epoch: number; version: string; release: string } {
  const match = /^(?:(\d+):)?([^:-]+)-([^:-]+)$/.exec(found.evr);
  if (match === null) throw brokenError(found, `'${found.evr}' is not the version of a package`);
  const [, epoch = '0', version = '', release = ''] = match;
  return { epoch: Number(epoch), version, release };
}

function brokenError(found: SolvedPackage, why: string): KilnError {
  return new KilnError('E_REPOSITORY_METADATA', `${aboutFound(found)}: ${why}`, {
    hint: 'the metadata of its repository is broken or hostile: leave the package out by `exclude`',
  });
}

function aboutFound({ nevra, repository }: SolvedPackage): string {
  return `${nevra} of repository ${repository}`;
}
