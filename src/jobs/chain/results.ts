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

/** A snapshot of a chain's repository, for its members. */
export function resultsRepository(path: string): Repository {
  return localRepository(REPOSITORY_ID, path, 'results of this chain');
}

/** A package that a member of this chain made. */
interface ResultPackage extends PooledPackage {
  readonly member: string;
}

/** The results for a build, fixed until this is disposed of. */
export interface ResultsInUse extends AsyncDisposable {
  readonly generation: number;
  readonly snapshot: string | null;
  /** Undefined while there are no results. */
  readonly repository: Repository | undefined;
}

/**
 * The results of a chain as a repository: each result is available to the next build at once, and nobody sees
 * an unfinished one.
 */
export class Results implements AsyncDisposable {
  readonly #directory: string;
  readonly #keep: Set<string>;
  #files: ReadonlyMap<string, readonly RepositoryFile[]> = new Map();
  /** The generation in which a member's packages last changed. */
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

  /** Changes with every change of the content. */
  get revision(): number {
    return this.#revision;
  }

  /** Raised when there are new packages: a build of an earlier generation has not seen them. */
  get generation(): number {
    return this.#generation;
  }

  /**
   * Adds packages of members to the repository, in place of their old ones.
   * @throws what {@link publishRepository} throws; nothing has changed then
   */
  add(
    added: Iterable<readonly [member: string, files: readonly RepositoryFile[]]>,
    signal?: AbortSignal,
  ): Promise<void> {
    return this.#inTurn(() => this.#publish(new Map([...this.#files, ...added]), signal));
  }

  /** Removes packages of members that must be built again. */
  remove(members: readonly string[], signal?: AbortSignal): Promise<void> {
    return this.#inTurn(async () => {
      const left = [...this.#files].filter(([name]) => !members.includes(name));
      if (left.length < this.#files.size) await this.#publish(new Map(left), signal);
    });
  }

  /** Keeps a snapshot that a lock names. */
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
    // Removing packages cannot fix a failure.
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
   * Whether a package newer than `generation` meets one of `requires`.
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

  /** The real provides of a member's packages, once it is built. */
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
   * Install requests for the newest package that meets each of `requires`: members are built with the chain's
   * own packages, whatever else is available.
   */
  chosenFor(requires: readonly string[], member: string): string[] {
    return [...new Set(this.#choose(requires, member).flatMap(nevra))].sort();
  }

  /** The sha256 of those packages. */
  chosenDigests(requires: readonly string[], member: string): string[] {
    return [...new Set(this.#choose(requires, member).map(({ sha256 }) => sha256))];
  }

  /** The members that made those packages. */
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

  /** Runs one after another: a snapshot must not be taken into use while it is replaced. */
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
