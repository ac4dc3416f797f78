/** Random repositories, and random questions to them: what dnf and kiln are both asked. */
import { Random } from '../fuzzing/random.ts';

/** A package as metadata has it; lists hold what stands after `Requires:` and so on in a spec file. */
export interface WorldPackage {
  readonly name: string;
  readonly epoch: number;
  readonly version: string;
  readonly release: string;
  readonly arch: string;
  readonly requires: readonly string[];
  readonly recommends: readonly string[];
  readonly suggests: readonly string[];
  readonly supplements: readonly string[];
  readonly provides: readonly string[];
  readonly conflicts: readonly string[];
  readonly obsoletes: readonly string[];
  readonly files: readonly string[];
}

export interface WorldGroup {
  readonly id: string;
  readonly members: readonly {
    readonly name: string;
    readonly type: 'mandatory' | 'default' | 'optional' | 'conditional';
    readonly requires?: string;
  }[];
}

/** A stream of a module: one document of modules.yaml. */
export interface WorldStream {
  readonly name: string;
  readonly stream: string;
  readonly version: number;
  readonly context: string;
  readonly staticContext: boolean;
  /** Module to streams; none: any. */
  readonly requires: Readonly<Record<string, readonly string[]>>;
  readonly artifacts: readonly string[];
  /** Profile to packages. */
  readonly profiles?: Readonly<Record<string, readonly string[]>>;
}

export interface WorldRepository {
  readonly packages: readonly WorldPackage[];
  readonly groups: readonly WorldGroup[];
  readonly streams: readonly WorldStream[];
  /** Module to its default stream. */
  readonly defaults: Readonly<Record<string, string>>;
  /** Module to stream to its default profiles. */
  readonly defaultProfiles?: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>>;
  readonly priority: number;
  readonly cost: number;
  readonly excludepkgs: readonly string[];
  readonly includepkgs: readonly string[];
  readonly moduleHotfixes: boolean;
}

export interface WorldQuestion {
  readonly install: readonly string[];
  readonly exclude: readonly string[];
  readonly weak: boolean;
  readonly enable: readonly string[];
  readonly disable: readonly string[];
}

export interface World {
  readonly seed: number;
  readonly repositories: readonly WorldRepository[];
  readonly questions: readonly WorldQuestion[];
}

const NAMES = [
  'app',
  'app-data',
  'app-libs',
  'base',
  'core',
  'doc',
  'lib',
  'lib-devel',
  'perl-X',
  'python3',
  'tool',
  'zed',
];
const CAPABILITIES = [
  'cap',
  'lib.so.1()(64bit)',
  'perl(X)',
  'perl(X::Y)',
  'pkgconfig(z)',
  'editor',
];
const FILES = [
  '/usr/bin/tool',
  '/usr/bin/zed',
  '/etc/app.conf',
  '/usr/share/doc/readme',
  '/usr/lib/app/plugin',
];
const VERSIONS = ['1', '1.1', '2', '2.0~rc1', '2.0^git1', '3', '10'];
const RELEASES = ['1', '2', '1.fc1'];
const OPERATORS = ['=', '>=', '<=', '<', '>'];
const MODULES = ['node', 'perl', 'db'];
const STREAMS = ['1', '2', 'rolling'];
export const PLATFORM = 'el9';

/** The world of a seed: equal seeds make equal worlds. */
export function makeWorld(seed: number, questions: number): World {
  return new Maker(seed).world(questions);
}

class Maker {
  readonly #seed: number;
  readonly #random: Random;
  /** Every package so far. */
  readonly #packages: WorldPackage[] = [];

  constructor(seed: number) {
    this.#seed = seed;
    this.#random = new Random(seed);
  }

  world(questions: number): World {
    const modular = this.#chance(0.35);
    const count = 1 + this.#below(3);
    const repositories = Array.from({ length: count }, () => this.#repository(modular));
    return {
      seed: this.#seed,
      repositories,
      questions: Array.from({ length: questions }, () => this.#question(repositories)),
    };
  }

  #repository(modular: boolean): WorldRepository {
    const packages = this.#some(6, 22, () => this.#package());
    // A repository has a package once.
    const unique = [...new Map(packages.map((one) => [nevraOf(one), one])).values()];
    this.#packages.push(...unique);
    const streams = modular && this.#chance(0.8) ? this.#streams(unique) : [];
    return {
      packages: unique,
      groups: this.#chance(0.4) ? this.#some(1, 2, () => this.#group()) : [],
      streams,
      defaults: this.#defaults(streams),
      priority: this.#chance(0.3) ? this.#pick([10, 50, 99]) : 99,
      cost: this.#chance(0.2) ? this.#pick([500, 1000, 2000]) : 1000,
      excludepkgs: this.#chance(0.2) ? this.#some(1, 2, () => this.#pattern()) : [],
      includepkgs: this.#chance(0.1) ? this.#some(3, 6, () => this.#pattern()) : [],
      moduleHotfixes: modular && this.#chance(0.2),
    };
  }

  #package(): WorldPackage {
    const name = this.#pick(NAMES);
    const version = this.#pick(VERSIONS);
    return {
      name,
      epoch: this.#chance(0.1) ? 1 : 0,
      version,
      release: this.#pick(RELEASES),
      arch: this.#pick(['noarch', 'x86_64', 'x86_64']),
      requires: this.#few(0.4, 2, () => this.#dependency(true)),
      recommends: this.#few(0.15, 1, () => this.#dependency(true)),
      suggests: this.#few(0.05, 1, () => this.#dependency(false)),
      supplements: this.#few(0.05, 1, () => this.#dependency(false)),
      provides: [
        ...this.#few(0.5, 2, () => this.#provide()),
        ...this.#few(0.1, 1, () => `${this.#pick(NAMES)} = ${this.#pick(VERSIONS)}`),
      ],
      conflicts: this.#few(0.08, 1, () => this.#dependency(false)),
      obsoletes: this.#few(0.2, 2, () => this.#plain(this.#pick([...NAMES, 'cap', 'gone']))),
      files: this.#few(0.4, 2, () => this.#pick(FILES)),
    };
  }

  /** A name or capability, often with a condition. */
  #plain(name: string): string {
    return this.#chance(0.35) ? `${name} ${this.#pick(OPERATORS)} ${this.#pick(VERSIONS)}` : name;
  }

  #provide(): string {
    const name = this.#pick(CAPABILITIES);
    return this.#chance(0.4) ? `${name} = ${this.#pick(VERSIONS)}` : name;
  }

  #dependency(files: boolean): string {
    const kind = this.#random.below(1000) / 1000;
    if (kind < 0.08) {
      const [a, b] = [this.#pick(NAMES), this.#pick(NAMES)];
      return this.#pick([
        `(${a} or ${b})`,
        `(${a} if ${b})`,
        `(${a} and ${b})`,
        `(${a} unless ${b})`,
      ]);
    }
    if (files && kind < 0.2) return this.#pick(FILES);
    return this.#plain(this.#pick(kind < 0.5 ? CAPABILITIES : NAMES));
  }

  #group(): WorldGroup {
    return {
      id: this.#pick(['build', 'desktop']),
      members: this.#some(1, 4, () => {
        const type = this.#pick(['mandatory', 'default', 'optional', 'conditional'] as const);
        const name = this.#pick([...NAMES, 'nobody-has-this']);
        return type === 'conditional'
          ? { name, type, requires: this.#pick(NAMES) }
          : { name, type };
      }),
    };
  }

  #streams(packages: readonly WorldPackage[]): WorldStream[] {
    const made = this.#some(1, 5, (): WorldStream => {
      const name = this.#pick(MODULES);
      const others = MODULES.filter((other) => other !== name);
      const requires: Record<string, string[]> = {
        platform: this.#chance(0.9) ? [PLATFORM] : [],
      };
      if (this.#chance(0.25)) {
        requires[this.#pick(others)] = this.#few(0.7, 2, () => this.#pick(STREAMS));
      }
      return {
        name,
        stream: this.#pick(STREAMS),
        version: this.#pick([1, 2, 3]),
        context: this.#pick(['aaaa', 'bbbb']),
        staticContext: this.#chance(0.2),
        requires,
        artifacts: this.#some(0, 4, () => artifactOf(this.#pick(packages))),
      };
    });
    const key = (one: WorldStream) => [one.name, one.stream, one.version, one.context].join(':');
    return [...new Map(made.map((one) => [key(one), one])).values()];
  }

  #defaults(streams: readonly WorldStream[]): Record<string, string> {
    const pairs = streams
      .filter(() => this.#chance(0.4))
      .map(({ name, stream }): [string, string] => [name, stream]);
    return Object.fromEntries(pairs);
  }

  #question(repositories: readonly WorldRepository[]): WorldQuestion {
    const streams = repositories.flatMap((repository) => repository.streams);
    const groups = repositories.flatMap((repository) => repository.groups);
    const modular = streams.length > 0;
    const enabled = modular && this.#chance(0.5) ? this.#pick(streams) : undefined;
    return {
      install: this.#some(1, 2, () => this.#request(groups)),
      exclude: this.#few(0.15, 1, () => this.#pattern()),
      weak: this.#chance(0.3),
      enable: enabled === undefined ? [] : [`${enabled.name}:${enabled.stream}`],
      disable:
        modular && this.#chance(0.15)
          ? [this.#pick(streams).name].filter((name) => name !== enabled?.name)
          : [],
    };
  }

  #request(groups: readonly WorldGroup[]): string {
    const kind = this.#random.below(1000) / 1000;
    if (groups.length > 0 && kind < 0.2) return `@${this.#pick(groups).id}`;
    if (kind < 0.3) return this.#pick(FILES);
    if (kind < 0.35) return this.#pick(['/usr/bin/*', '*/tool', '/usr/share/doc/*']);
    if (kind < 0.45) return this.#provide();
    if (kind < 0.55) return this.#plain(this.#pick(NAMES));
    if (kind < 0.62) return this.#rich();
    return this.#pattern();
  }

  #rich(): string {
    const [one, two, three] = [this.#pick(NAMES), this.#pick(NAMES), this.#pick(NAMES)];
    return this.#pick([
      `(${one} or ${two})`,
      `(${one} or ${two} or ${three})`,
      `(${one} and ${two})`,
      `(${one} if ${two})`,
      `(${one} if ${two} else ${three})`,
      `(${one} with ${two})`,
      `(${one} without ${two})`,
    ]);
  }

  /** Something that names packages: a name, a part of a NEVRA, a glob. */
  #pattern(): string {
    const kind = this.#random.below(1000) / 1000;
    if (kind < 0.35 || this.#packages.length === 0) return this.#pick(NAMES);
    const one = this.#pick(this.#packages);
    const { name, epoch, version, release, arch } = one;
    if (kind < 0.7) {
      return this.#pick([
        nevraOf(one),
        `${name}-${version}`,
        `${name}-${version}-${release}`,
        `${name}-${epoch}:${version}`,
        `${name}.${arch}`,
        `${name}-${version}-${release}.${arch}`,
      ]);
    }
    return this.#pick([
      `${name.slice(0, 2)}*`,
      `*${name.slice(-2)}`,
      `${name}-${version.slice(0, 1)}*`,
      `${name}-*-${release}`,
      `${name}.*`,
      `${name}-?`,
      `[a-l]*`,
      `*.${arch}`,
      `perl(*)`,
      `${name}-${epoch}:*`,
    ]);
  }

  #pick<Item>(items: readonly Item[]): Item {
    return this.#random.pick(items);
  }

  #below(limit: number): number {
    return this.#random.below(limit);
  }

  #chance(probability: number): boolean {
    return this.#random.below(1000) < probability * 1000;
  }

  #some<Item>(least: number, most: number, make: () => Item): Item[] {
    return Array.from({ length: least + this.#below(most - least + 1) }, make);
  }

  #few<Item>(probability: number, most: number, make: () => Item): Item[] {
    return this.#chance(probability) ? this.#some(1, most, make) : [];
  }
}

/** name-[epoch:]version-release.arch; epoch 0 is left out. */
export function nevraOf({ name, epoch, version, release, arch }: WorldPackage): string {
  return `${name}-${epoch === 0 ? '' : `${epoch}:`}${version}-${release}.${arch}`;
}

/** As modules.yaml has it. */
function artifactOf({ name, epoch, version, release, arch }: WorldPackage): string {
  return `${name}-${epoch}:${version}-${release}.${arch}`;
}
