/** libsolv's calls on repositories (repo.h, repo_write.h). */
import type { KoffiFunc } from 'koffi';
import type { Id, Library, Pointer } from './libsolv-types.ts';

export function bindRepo(library: Library, extension: Library) {
  type AddFile = (repo: Pointer, stream: Pointer, flags: number) => number;
  type AddMetadata = (
    repo: Pointer,
    stream: Pointer,
    language: string | null,
    flags: number,
  ) => number;
  return {
    create: library.func('void *repo_create(void *pool, const char *name)') as (
      pool: Pointer,
      name: string,
    ) => Pointer,
    /** Takes long: call it with `.async` while another part of the child feeds the stream. */
    addMetadata: extension.func(
      'int repo_add_rpmmd(void *repo, void *stream, const char *language, int flags)',
    ) as KoffiFunc<AddMetadata>,
    addSolv: library.func('int repo_add_solv(void *repo, void *stream, int flags)') as AddFile,
    write: library.func('int repo_write(void *repo, void *stream)') as (
      repo: Pointer,
      stream: Pointer,
    ) => number,
    lastData: library.func('void *repo_last_repodata(void *repo)') as (repo: Pointer) => Pointer,
    writeData: library.func('int repodata_write(void *data, void *stream)') as (
      data: Pointer,
      stream: Pointer,
    ) => number,
    addSolvable: library.func('int repo_add_solvable(void *repo)') as (repo: Pointer) => Id,
    setId: library.func('void repo_set_id(void *repo, int solvable, int key, int id)') as (
      repo: Pointer,
      solvable: Id,
      key: Id,
      id: Id,
    ) => void,
    addDependency: library.func(
      'void repo_add_deparray(void *repo, int solvable, int key, int dep, int marker)',
    ) as (repo: Pointer, solvable: Id, key: Id, dependency: Id, marker: Id) => void,
    internalize: library.func('void repo_internalize(void *repo)') as (repo: Pointer) => void,
  };
}
