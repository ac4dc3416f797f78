import { join } from 'node:path';
import { localRepository, type Repository } from '../../packages/repository/configuration.ts';
import type { PooledPackage } from '../../packages/repository/publish/pool.ts';
import {
  publishRepository,
  type RepositoryFile,
  type Snapshot,
} from '../../packages/repository/publish/snapshot.ts';
import { compareEvr, nevra } from '../../packages/rpm/dependency.ts';
import { awaitedLater } from '../../promise.ts';
import { type Capability, parseCapabilities, provides } from './capability.ts';

const REPOSITORY_ID = 'kiln-chain';

export function resultsRepository(path: string): Repository {
  return localRepository(REPOSITORY_ID, path, 'results of this chain');
}

interface ResultPackage extends PooledPackage {
  readonly member: string;
}

export interface ResultsInUse extends AsyncDisposable {
  readonly generation: number;
  readonly snapshot: string | null;
  /** The folder of the snapshot. */
  readonly path: string | undefined;
}

export class Results implements AsyncDisposable {
  readonly #directory: string;
  readonly #keep: Set<string>;
  #files: ReadonlyMap<string, readonly RepositoryFile[]> = new Map();
  /** The generation in which a member's packages last changed. */
  readonly #since = new Map<string, number>();
  #packages: readonly ResultPackage[] = [];
  #byMember: ReadonlyMap<string, readonly ResultPackage[]> = new Map();
  /** By the name of each thing that they provide: a chain may have thousands. */
  #byProvided: ReadonlyMap<string, readonly { readonly entry: ResultPackage }[]> = new Map();
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

  get current(): string {
    return join(this.#directory, 'current');
  }

  get revision(): number {
    return this.#revision;
  }

  /** Raised when there are new packages: a build of an earlier generation has not seen them. */
  get generation(): number {
    return this.#generation;
  }

  add(
    added: Iterable<readonly [member: string, files: readonly RepositoryFile[]]>,
    signal?: AbortSignal,
  ): Promise<void> {
    return this.#inTurn(() => this.#publish(new Map([...this.#files, ...added]), signal));
  }

  remove(members: readonly string[], signal?: AbortSignal): Promise<void> {
    return this.#inTurn(async () => {
      const left = [...this.#files].filter(([name]) => !members.includes(name));
      if (left.length < this.#files.size) await this.#publish(new Map(left), signal);
    });
  }

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
    this.#byMember = Map.groupBy(this.#packages, ({ member }) => member);
    const offers = this.#packages.flatMap((entry) =>
      [...new Set(entry.provides.map(({ name }) => name))].map((name) => ({ name, entry })),
    );
    this.#byProvided = Map.groupBy(offers, ({ name }) => name);
    this.#revision++;
    // Removing packages cannot fix a failure.
    if (changed.length === 0) return;
    this.#generation++;
    for (const [name] of changed) this.#since.set(name, this.#generation);
  }

  use(): Promise<ResultsInUse> {
    return this.#inTurn(async () => {
      const snapshot = await this.#snapshot?.share();
      return {
        generation: this.#generation,
        snapshot: snapshot?.id ?? null,
        path: snapshot?.path,
        [Symbol.asyncDispose]: async () => snapshot?.[Symbol.asyncDispose](),
      };
    });
  }

  hasNewer(generation: number, requires: readonly string[], except: ReadonlySet<string>): boolean {
    return requires
      .flatMap(parseCapabilities)
      .flatMap((required) => this.#providersOf(required))
      .some(({ member }) => !except.has(member) && (this.#since.get(member) ?? 0) > generation);
  }

  providesOf(member: string): Capability[] | undefined {
    if (!this.#files.has(member)) return undefined;
    return this.#byMember.get(member)?.flatMap((entry) => entry.provides) ?? [];
  }

  membersOf(digests: ReadonlySet<string>): string[] {
    const used = this.#packages.filter(({ sha256 }) => digests.has(`sha256:${sha256}`));
    return [...new Set(used.map(({ member }) => member))].sort();
  }

  /** Requests for this chain's newest package that meets each of `requires`, whatever else is available. */
  chosenFor(requires: readonly string[], member: string): string[] {
    return [...new Set(this.chosen(requires, member).map(nevra))].sort();
  }

  /** The newest package of other members that meets each of `requires`. */
  chosen(requires: readonly string[], member: string): ResultPackage[] {
    const plain = requires.filter((text) => !text.startsWith('('));
    const chosen = plain.flatMap(parseCapabilities).flatMap((required) =>
      this.#providersOf(required)
        .filter((entry) => entry.member !== member)
        .sort((a, b) => compareEvr(b, a))
        .slice(0, 1),
    );
    return [...new Set(chosen)];
  }

  #providersOf(required: Capability): ResultPackage[] {
    const named = (this.#byProvided.get(required.name) ?? []).map(({ entry }) => entry);
    return named.filter((entry) => entry.provides.some((one) => provides(one, required)));
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
