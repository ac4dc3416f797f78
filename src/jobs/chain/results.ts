import { join } from 'node:path';
import type { Repository } from '../../packages/repository/configuration.ts';
import { localRepository } from '../../packages/repository/local-repository.ts';
import type { PooledPackage } from '../../packages/repository/publish/pool.ts';
import {
  publishRepository,
  type RepositoryFile,
  type Snapshot,
} from '../../packages/repository/publish/snapshot.ts';
import { compareEvr } from '../../packages/rpm/dependency.ts';
import { awaitedLater } from '../../promise.ts';
import { type Capability, parseCapabilities, provides } from './capability.ts';

/** The id of a chain's own repository in its members' locks. */
const REPOSITORY_ID = 'kiln-chain';

/** A snapshot of a chain's repository, as its members take packages from it. */
export function resultsRepository(path: string): Repository {
  return localRepository(REPOSITORY_ID, path, 'results of this chain');
}

/** A package that a member of this chain made. */
interface ResultPackage extends PooledPackage {
  readonly member: string;
}

/** The results that a build is given; they stay as they are until this is disposed of. */
export interface ResultsInUse extends AsyncDisposable {
  readonly generation: number;
  readonly snapshot: string | null;
  /** Undefined while there are no results. */
  readonly repository: Repository | undefined;
}

/**
 * What a chain has made so far, as a repository: each result is at once there for the next build,
 * and nobody sees half of it.
 */
export class Results implements AsyncDisposable {
  readonly #directory: string;
  readonly #keep: Set<string>;
  #files: ReadonlyMap<string, readonly RepositoryFile[]> = new Map();
  /** The generation in which a member's packages became what they are. */
  readonly #since = new Map<string, number>();
  #packages: readonly ResultPackage[] = [];
  #snapshot: Snapshot | undefined;
  #turn: Promise<unknown> = Promise.resolve();
  #generation = 0;
  #revision = 0;

  /**
   * @param directory of the repository; made when first needed
   * @param keep snapshots that locks of earlier builds name
   */
  constructor(directory: string, keep: Iterable<string>) {
    this.#directory = directory;
    this.#keep = new Set(keep);
  }

  /** Where `dnf` and people find the newest snapshot. */
  get current(): string {
    return join(this.#directory, 'current');
  }

  /** Changes with every change of what there is. */
  get revision(): number {
    return this.#revision;
  }

  /** Goes up when there is something new: what was built in an earlier one did not see it. */
  get generation(): number {
    return this.#generation;
  }

  /**
   * Makes the packages of members, in place of those they had, part of the repository.
   * @throws what {@link publishRepository} throws; nothing has changed then
   */
  add(
    added: Iterable<readonly [member: string, files: readonly RepositoryFile[]]>,
    signal?: AbortSignal,
  ): Promise<void> {
    return this.#inTurn(() => this.#publish(new Map([...this.#files, ...added]), signal));
  }

  /** Takes the packages of members out: they are not what these would be made of now. */
  remove(members: readonly string[], signal?: AbortSignal): Promise<void> {
    return this.#inTurn(async () => {
      const left = [...this.#files].filter(([name]) => !members.includes(name));
      if (left.length < this.#files.size) await this.#publish(new Map(left), signal);
    });
  }

  /** Has a snapshot stay, which a lock names. */
  retain(snapshot: string | null): void {
    if (snapshot !== null) this.#keep.add(snapshot);
  }

  async #publish(
    files: ReadonlyMap<string, readonly RepositoryFile[]>,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const changed = [...files].filter(
      ([name, all]) => digests(all) !== digests(this.#files.get(name) ?? []),
    );
    if (changed.length === 0 && files.size === this.#files.size) return;
    const keep = this.#keep;
    const all = [...files.values()].flat();
    const snapshot = await publishRepository(this.#directory, all, { keep, signal });
    await this.#snapshot?.[Symbol.asyncDispose]();
    this.#snapshot = snapshot;
    this.#files = files;
    const owners = new Map(
      [...files].flatMap(([name, made]) => made.map(({ sha256 }) => [sha256, name] as const)),
    );
    this.#packages = snapshot.packages.map((entry) => ({
      ...entry,
      member: owners.get(entry.sha256) ?? '',
    }));
    this.#revision++;
    // What is taken out mends nothing that failed without it.
    if (changed.length === 0) return;
    this.#generation++;
    for (const [name] of changed) this.#since.set(name, this.#generation);
  }

  /** Takes the newest results into use. */
  use(): Promise<ResultsInUse> {
    return this.#inTurn(async () => {
      const snapshot = await this.#snapshot?.share();
      const release = async () => snapshot?.[Symbol.asyncDispose]();
      return {
        generation: this.#generation,
        snapshot: snapshot?.id ?? null,
        repository: snapshot && resultsRepository(snapshot.path),
        [Symbol.asyncDispose]: release,
      };
    });
  }

  /**
   * Whether there is something newer than `generation` that one of `requires` asks for.
   * @param except members whose packages do not count
   */
  hasNewer(generation: number, requires: readonly string[], except: ReadonlySet<string>): boolean {
    const wanted = requires.flatMap(parseCapabilities);
    return this.#packages.some(
      (entry) =>
        !except.has(entry.member) &&
        (this.#since.get(entry.member) ?? 0) > generation &&
        entry.provides.some((one) => wanted.some((required) => provides(one, required))),
    );
  }

  /** What a member's packages really provide, once it is built. */
  providesOf(member: string): Capability[] | undefined {
    if (!this.#files.has(member)) return undefined;
    const own = this.#packages.filter((entry) => entry.member === member);
    return own.flatMap((entry) => entry.provides);
  }

  /** The members whose packages have one of these digests (`sha256:…`). */
  membersOf(digests: ReadonlySet<string>): string[] {
    const used = this.#packages.filter(({ sha256 }) => digests.has(`sha256:${sha256}`));
    return [...new Set(used.map(({ member }) => member))].sort();
  }

  /**
   * The packages that meet one of `requires`, the newest for each, as install requests: what the
   * chain has made is what its members are built with, whatever else is to be had.
   */
  chosenFor(requires: readonly string[], member: string): string[] {
    return [...new Set(this.#choose(requires, member).flatMap(nevra))].sort();
  }

  /** The sha256 of those packages. */
  chosenDigests(requires: readonly string[], member: string): string[] {
    return [...new Set(this.#choose(requires, member).map(({ sha256 }) => sha256))];
  }

  /** The members that made them. */
  makersOf(requires: readonly string[], member: string): string[] {
    return [...new Set(this.#choose(requires, member).map((entry) => entry.member))];
  }

  #choose(requires: readonly string[], member: string): ResultPackage[] {
    return requires
      .filter((text) => !text.startsWith('('))
      .flatMap((text) => {
        const [required] = parseCapabilities(text);
        if (required === undefined) return [];
        const fitting = this.#packages.filter(
          (entry) =>
            entry.member !== member && entry.provides.some((one) => provides(one, required)),
        );
        return fitting.sort((a, b) => compareEvr(b, a)).slice(0, 1);
      });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#turn;
    await this.#snapshot?.[Symbol.asyncDispose]();
  }

  /** One after another: a snapshot that is being replaced must not be taken into use. */
  async #inTurn<Result>(work: () => Promise<Result>): Promise<Result> {
    const result = awaitedLater(this.#turn.then(work));
    this.#turn = result.catch(() => undefined);
    return await result;
  }
}

function digests(files: readonly RepositoryFile[]): string {
  return files.map(({ sha256 }) => sha256).join();
}

function nevra({ name, epoch, version, release, arch }: PooledPackage): string {
  return `${name}-${epoch === null ? '' : `${epoch}:`}${version}-${release}.${arch}`;
}
