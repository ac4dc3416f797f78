/**
 * The calls of libsolv that kiln makes. A wrong pointer ends the process, so this module is loaded
 * in confined children only. Sources: the headers of libsolv 0.7 (pool.h, repo.h, solver.h, …).
 */
import koffi, { type KoffiFunc } from 'koffi';
import { KilnError } from '../../../errors.ts';
import { type Library, libc, type Pointer, typed } from '../../../host/calls/c-library.ts';

/** An integer that stands for a string, a relation (negative) or a package, depending on its use. 0 is none. */
export type Id = number;

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

const POOL = {
  create: 'void *pool_create()',
  setDistributionType: 'int pool_setdisttype(void *pool, int type)',
  setFlag: 'int pool_set_flag(void *pool, int flag, int value)',
  setArch: 'void pool_setarch(void *pool, const char *arch)',
  setArchPolicy: 'void pool_setarchpolicy(void *pool, const char *policy)',
  error: 'const char *pool_errstr(void *pool)',
  addFileProvides: 'void pool_addfileprovides(void *pool)',
  createWhatProvides: 'void pool_createwhatprovides(void *pool)',
  stringToId: 'int pool_str2id(void *pool, const char *text, int create)',
  relationToId: 'int pool_rel2id(void *pool, int name, int evr, int flags, int create)',
  idToString: 'const char *pool_id2str(void *pool, int id)',
  lookupId: 'int pool_lookup_id(void *pool, int solvable, int key)',
  lookupString: 'const char *pool_lookup_str(void *pool, int solvable, int key)',
  lookupNumber:
    'unsigned long long pool_lookup_num(void *pool, int solvable, int key, unsigned long long missing)',
  lookupChecksum:
    'const char *pool_lookup_checksum(void *pool, int solvable, int key, _Out_ int *type)',
  lookupArray: 'int pool_lookup_idarray(void *pool, int solvable, int key, void *queue)',
  solvableToString: 'const char *pool_solvable2str(void *pool, void *solvable)',
  location: 'const char *solvable_lookup_location(void *solvable, void *media)',
  matchesRelation: 'int pool_match_nevr_rel(void *pool, void *solvable, int dependency)',
  /** Negative, 0 or positive, as rpm compares versions; `mode` 0. */
  compareVersions: 'int pool_evrcmp(void *pool, int first, int second, int mode)',
  internSolvables: 'int pool_queuetowhatprovides(void *pool, void *queue)',
  jobSolvables: 'void pool_job2solvables(void *pool, void *queue, int how, int what)',
  select: 'int selection_make(void *pool, void *queue, const char *name, int flags)',
  selectedSolvables: 'void selection_solvables(void *pool, void *selection, void *solvables)',
} as const;

const REPO = {
  create: 'void *repo_create(void *pool, const char *name)',
  addSolv: 'int repo_add_solv(void *repo, void *stream, int flags)',
  write: 'int repo_write(void *repo, void *stream)',
  lastData: 'void *repo_last_repodata(void *repo)',
  writeData: 'int repodata_write(void *data, void *stream)',
  addSolvable: 'int repo_add_solvable(void *repo)',
  setId: 'void repo_set_id(void *repo, int solvable, int key, int id)',
  addDependency: 'void repo_add_deparray(void *repo, int solvable, int key, int dep, int marker)',
} as const;

const SOLVER = {
  create: 'void *solver_create(void *pool)',
  setFlag: 'int solver_set_flag(void *solver, int flag, int value)',
  solve: 'int solver_solve(void *solver, void *jobs)',
  allProblemRules: 'void solver_findallproblemrules(void *solver, int problem, void *rules)',
  ruleInfo:
    'int solver_ruleinfo(void *solver, int rule, _Out_ int *from, _Out_ int *to, _Out_ int *dep)',
  ruleText:
    'const char *solver_problemruleinfo2str(void *solver, int type, int from, int to, int dep)',
  createTransaction: 'void *solver_create_transaction(void *solver)',
  orderTransaction: 'void transaction_order(void *transaction, int flags)',
} as const;

const QUEUE = {
  init: 'void queue_init(void *queue)',
  insert: 'void queue_insert(void *queue, int position, int id)',
  free: 'void queue_free(void *queue)',
} as const;

function bind() {
  const base = open('libsolv.so.1');
  const extension = open('libsolvext.so.1');
  const version = koffi.decode.string(base.symbol('solv_version'));
  return {
    version,
    pool: typed(base, POOL),
    repo: { ...typed(base, REPO), addMetadata: addMetadata(extension) },
    solver: typed(base, SOLVER),
    queue: typed(base, QUEUE),
    ...typed(extension, {
      parseRichDependency: 'int pool_parserpmrichdep(void *pool, const char *dep)',
    }),
    ...typed(libc, {
      fdopen: 'void *fdopen(int fd, const char *mode)',
      fflush: 'int fflush(void *stream)',
      fclose: 'int fclose(void *stream)',
    }),
  };
}

/** Takes long: call it with `.async` while another part of the child feeds the stream. */
function addMetadata(extension: Library) {
  return extension.func(
    'int repo_add_rpmmd(void *repo, void *stream, const char *language, int flags)',
  ) as KoffiFunc<
    (repo: Pointer, stream: Pointer, language: string | null, flags: number) => number
  >;
}
