/**
 * The calls of libsolv that kiln makes. A wrong pointer ends the process, so this module is loaded
 * in confined children only. Sources: the headers of libsolv 0.7 (pool.h, repo.h, solver.h, …).
 */
import koffi from 'koffi';
import { KilnError } from '../../../errors.ts';
import { libc } from '../../../host/calls/c-library.ts';
import { bindRepo } from './libsolv-repo.ts';
import type { Id, Library, Pointer } from './libsolv-types.ts';

/** pool.h */
export const DISTTYPE_RPM = 0;
export const POOL_FLAG_WHATPROVIDESWITHDISABLED = 12;

/** repo.h */
export const REPO_LOCALPOOL = 1 << 2;
export const REPO_EXTEND_SOLVABLES = 1 << 4;

const HINT =
  'install it: apt-get install libsolv1 libsolvext1 (Debian, Ubuntu) or dnf install libsolv (Fedora)';

/** Loads libsolv once; `prepare` of a confined task calls it, before the way to files is closed. */
export function loadLibsolv(): Libsolv {
  loaded ??= bind();
  return loaded;
}

export type Libsolv = ReturnType<typeof bind>;
let loaded: Libsolv | undefined;

function open(name: string) {
  try {
    // libsolvext needs libsolv's symbols, so both are global.
    return koffi.load(name, { global: true });
  } catch (cause) {
    throw new KilnError('E_SOLVER_MISSING', `${name} cannot be loaded`, { cause, hint: HINT });
  }
}

function bind() {
  const base = open('libsolv.so.1');
  const extension = open('libsolvext.so.1');
  const version = koffi.decode.string(base.symbol('solv_version'));
  return {
    version,
    pool: bindPool(base),
    repo: bindRepo(base, extension),
    solver: bindSolver(base),
    queue: bindQueue(base),
    parseRichDependency: extension.func(
      'int pool_parserpmrichdep(void *pool, const char *dep)',
    ) as (pool: Pointer, dependency: string) => Id,
    fdopen: libc.func('void *fdopen(int fd, const char *mode)') as (
      fd: number,
      mode: string,
    ) => Pointer | null,
    fclose: libc.func('int fclose(void *stream)') as (stream: Pointer) => number,
    fflush: libc.func('int fflush(void *stream)') as (stream: Pointer) => number,
  };
}

function bindPool(library: Library) {
  return {
    create: library.func('void *pool_create()') as () => Pointer,
    setDistributionType: library.func('int pool_setdisttype(void *pool, int type)') as (
      pool: Pointer,
      type: number,
    ) => number,
    setFlag: library.func('int pool_set_flag(void *pool, int flag, int value)') as (
      pool: Pointer,
      flag: number,
      value: number,
    ) => number,
    setArch: library.func('void pool_setarch(void *pool, const char *arch)') as (
      pool: Pointer,
      arch: string,
    ) => void,
    setArchPolicy: library.func('void pool_setarchpolicy(void *pool, const char *policy)') as (
      pool: Pointer,
      policy: string,
    ) => void,
    error: library.func('const char *pool_errstr(void *pool)') as (pool: Pointer) => string,
    addFileProvides: library.func('void pool_addfileprovides(void *pool)') as (
      pool: Pointer,
    ) => void,
    createWhatProvides: library.func('void pool_createwhatprovides(void *pool)') as (
      pool: Pointer,
    ) => void,
    stringToId: library.func('int pool_str2id(void *pool, const char *text, int create)') as (
      pool: Pointer,
      text: string,
      create: 0 | 1,
    ) => Id,
    relationToId: library.func(
      'int pool_rel2id(void *pool, int name, int evr, int flags, int create)',
    ) as (pool: Pointer, name: Id, evr: Id, flags: number, create: 0 | 1) => Id,
    idToString: library.func('const char *pool_id2str(void *pool, int id)') as (
      pool: Pointer,
      id: Id,
    ) => string,
    dependencyToString: library.func('const char *pool_dep2str(void *pool, int dep)') as (
      pool: Pointer,
      dependency: Id,
    ) => string,
    lookupId: library.func('int pool_lookup_id(void *pool, int solvable, int key)') as (
      pool: Pointer,
      solvable: Id,
      key: Id,
    ) => Id,
    lookupString: library.func(
      'const char *pool_lookup_str(void *pool, int solvable, int key)',
    ) as (pool: Pointer, solvable: Id, key: Id) => string | null,
    lookupNumber: library.func(
      'unsigned long long pool_lookup_num(void *pool, int solvable, int key, unsigned long long missing)',
    ) as (pool: Pointer, solvable: Id, key: Id, missing: number) => number | bigint,
    lookupChecksum: library.func(
      'const char *pool_lookup_checksum(void *pool, int solvable, int key, _Out_ int *type)',
    ) as (pool: Pointer, solvable: Id, key: Id, type: [Id]) => string | null,
    lookupArray: library.func(
      'int pool_lookup_idarray(void *pool, int solvable, int key, void *queue)',
    ) as (pool: Pointer, solvable: Id, key: Id, queue: Buffer) => number,
    solvableToString: library.func('const char *pool_solvable2str(void *pool, void *solvable)') as (
      pool: Pointer,
      solvable: Pointer,
    ) => string,
    location: library.func('const char *solvable_lookup_location(void *solvable, void *media)') as (
      solvable: Pointer,
      media: null,
    ) => string | null,
    /** Whether the package's own name and version are what `dependency`, a relation, means. */
    matchesRelation: library.func(
      'int pool_match_nevr_rel(void *pool, void *solvable, int dependency)',
    ) as (pool: Pointer, solvable: Pointer, dependency: Id) => number,
    /** Negative, 0 or positive, as rpm compares versions; `mode` 0. */
    compareVersions: library.func(
      'int pool_evrcmp(void *pool, int first, int second, int mode)',
    ) as (pool: Pointer, first: Id, second: Id, mode: 0) => number,
    internSolvables: library.func('int pool_queuetowhatprovides(void *pool, void *queue)') as (
      pool: Pointer,
      queue: Buffer,
    ) => Id,
    /** The packages a job of these flags (select part) is about. */
    jobSolvables: library.func(
      'void pool_job2solvables(void *pool, void *queue, int how, int what)',
    ) as (pool: Pointer, queue: Buffer, how: number, what: Id) => void,
    select: library.func(
      'int selection_make(void *pool, void *queue, const char *name, int flags)',
    ) as (pool: Pointer, queue: Buffer, name: string, flags: number) => number,
    selectedSolvables: library.func(
      'void selection_solvables(void *pool, void *selection, void *solvables)',
    ) as (pool: Pointer, selection: Buffer, solvables: Buffer) => void,
  };
}

function bindSolver(library: Library) {
  return {
    create: library.func('void *solver_create(void *pool)') as (pool: Pointer) => Pointer,
    setFlag: library.func('int solver_set_flag(void *solver, int flag, int value)') as (
      solver: Pointer,
      flag: number,
      value: number,
    ) => number,
    /** Returns the number of problems. */
    solve: library.func('int solver_solve(void *solver, void *jobs)') as (
      solver: Pointer,
      jobs: Buffer,
    ) => number,
    allProblemRules: library.func(
      'void solver_findallproblemrules(void *solver, int problem, void *rules)',
    ) as (solver: Pointer, problem: Id, rules: Buffer) => void,
    ruleInfo: library.func(
      'int solver_ruleinfo(void *solver, int rule, _Out_ int *from, _Out_ int *to, _Out_ int *dep)',
    ) as (solver: Pointer, rule: Id, from: [Id], to: [Id], dependency: [Id]) => number,
    ruleText: library.func(
      'const char *solver_problemruleinfo2str(void *solver, int type, int from, int to, int dep)',
    ) as (solver: Pointer, type: number, from: Id, to: Id, dependency: Id) => string,
    createTransaction: library.func('void *solver_create_transaction(void *solver)') as (
      solver: Pointer,
    ) => Pointer,
    orderTransaction: library.func('void transaction_order(void *transaction, int flags)') as (
      transaction: Pointer,
      flags: number,
    ) => void,
  };
}

function bindQueue(library: Library) {
  return {
    init: library.func('void queue_init(void *queue)') as (queue: Buffer) => void,
    insert: library.func('void queue_insert(void *queue, int position, int id)') as (
      queue: Buffer,
      position: number,
      id: Id,
    ) => void,
    free: library.func('void queue_free(void *queue)') as (queue: Buffer) => void,
  };
}
