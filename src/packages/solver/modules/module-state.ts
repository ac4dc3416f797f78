import { KilnError } from '../../../errors.ts';
import type {
  ModuleDefaults,
  ModuleMetadata,
  ModuleObsoletes,
  ModuleStream,
} from '../../repository/metadata/modules-task.ts';
import { globExpression, isGlob } from '../match.ts';

export class Modules {
  readonly streams: readonly ModuleStream[];
  readonly defaults: ReadonlyMap<string, ModuleDefaults>;
  readonly enabled = new Map<string, string>();
  readonly disabled = new Set<string>();
  readonly #obsoletes: readonly ModuleObsoletes[];

  constructor(all: readonly ModuleMetadata[]) {
    this.streams = inOrder(all);
    this.defaults = mergeDefaults(all.map(({ defaults }) => defaults));
    this.#obsoletes = all.flatMap(({ obsoletes }) => obsoletes);
  }

  isWanted({ name, stream }: ModuleStream): boolean {
    return (
      !this.disabled.has(name) &&
      (this.enabled.get(name) ?? this.defaults.get(name)?.stream) === stream
    );
  }

  disable(spec: string): void {
    for (const name of this.#matching(spec).keys()) {
      this.disabled.add(name);
      this.enabled.delete(name);
    }
  }

  /** @returns what the spec names, and its versions and contexts, of the stream of each module that is enabled now */
  enable(spec: string): ModuleStream[][] {
    return [...this.#matching(spec)].map(([name, matching]) => {
      const chosen = this.#streamOf(spec, name, matching);
      const before = this.enabled.get(name);
      if (before !== undefined && before !== chosen) {
        const both = `the streams ${before} and ${chosen} of the module ${name}`;
        throw moduleError(`${both} cannot both be enabled`, { hint: 'enable one of them' });
      }
      this.enabled.set(name, chosen);
      this.disabled.delete(name);
      return matching.filter(({ stream }) => stream === chosen);
    });
  }

  applyObsoletes(apply: boolean): string[] {
    const now = Number(new Date().toISOString().replace(/\D/g, '').slice(0, 12));
    const warnings: string[] = [];
    for (const [name, stream] of [...this.enabled]) {
      const valid = this.#obsoletes.filter(
        (one) => one.module === name && one.stream === stream && (one.from ?? 0) <= now,
      );
      const newest = valid.reduce<ModuleObsoletes | undefined>(
        (best, one) => (best === undefined || one.modified >= best.modified ? one : best),
        undefined,
      );
      if (newest === undefined || newest.reset) continue;
      const { by, message } = newest;
      const what =
        by === undefined ? 'has come to its end' : `is replaced by ${by.module}:${by.stream}`;
      warnings.push(`the module ${name}:${stream} ${what}: ${message}`);
      if (!apply || (by !== undefined && this.disabled.has(by.module))) continue;
      if (by?.module !== name) this.enabled.delete(name);
      if (by !== undefined) this.enabled.set(by.module, by.stream);
    }
    return warnings;
  }

  /** What a spec names, by module; each of its parts may be a glob, as for dnf. */
  #matching(spec: string): Map<string, ModuleStream[]> {
    const wanted = parseSpec(spec);
    const is = (part: keyof typeof wanted, text: string) =>
      wanted[part] === undefined || matches(wanted[part], text);
    const named = this.streams.filter((one) => is('name', one.name));
    if (named.length === 0) throw this.#unknownError(spec, wanted.name);
    const ofStream = named.filter((one) => is('stream', one.stream));
    if (ofStream.length === 0)
      throw noStreamError(`the module ${wanted.name} has no stream ${wanted.stream}`, named);
    const found = ofStream.filter(
      (one) => is('version', one.version) && is('context', one.context) && is('arch', one.arch),
    );
    if (found.length > 0) return Map.groupBy(found, ({ name }) => name);
    const there = ofStream.map(
      (one) => `${one.name}:${one.stream}:${one.version}:${one.context}::${one.arch}`,
    );
    throw moduleError(`no repository has ${spec}`, {
      hint: `there are ${there.slice(0, 10).join(', ')}`,
    });
  }

  #unknownError(spec: string, name: string): KilnError {
    const known = [...new Set(this.streams.map((one) => one.name))];
    const near = known.filter((one) => one.includes(name) || name.includes(one)).slice(0, 5);
    return moduleError(`no repository has the module ${spec}`, {
      hint:
        known.length === 0
          ? 'none of these repositories has modules at all'
          : `modules there are: ${(near.length > 0 ? near : known.sort().slice(0, 10)).join(', ')}`,
    });
  }

  /** Of several streams the one that is enabled, else the default one, as for dnf. */
  #streamOf(spec: string, name: string, matching: readonly ModuleStream[]): string {
    const streams = new Set(matching.map(({ stream }) => stream));
    const [only] = streams;
    const chosen =
      streams.size === 1 ? only : (this.enabled.get(name) ?? this.defaults.get(name)?.stream);
    if (chosen !== undefined && streams.has(chosen)) return chosen;
    throw noStreamError(
      `${spec} has several streams, and none is the default or enabled`,
      matching,
    );
  }
}

function noStreamError(message: string, streams: readonly ModuleStream[]): KilnError {
  const known = [...new Set(streams.map(({ stream }) => stream))].sort();
  const [first] = streams;
  return moduleError(message, {
    hint: `its streams are ${known.join(', ')}: name one as ${first?.name}:STREAM`,
  });
}

export function matches(pattern: string, text: string): boolean {
  return isGlob(pattern) ? globExpression(pattern).test(text) : pattern === text;
}

/** As libdnf numbers them: of streams that exclude one another the solver keeps the first. */
function inOrder(all: readonly ModuleMetadata[]): ModuleStream[] {
  const sorted = all.flatMap(({ streams }) =>
    [...streams].sort((a, b) => (a.name < b.name ? -1 : Number(a.name > b.name))),
  );
  const isStatic = ({ staticContext }: ModuleStream) => staticContext;
  return [...sorted.filter(isStatic), ...sorted.filter((stream) => !isStatic(stream))];
}

interface ModuleSpec {
  readonly name: string;
  readonly stream?: string | undefined;
  readonly version?: string | undefined;
  readonly context?: string | undefined;
  readonly arch?: string | undefined;
  readonly profile?: string | undefined;
}

/** `NAME[:STREAM[:VERSION[:CONTEXT]]][::ARCH][/PROFILE]` @throws KilnError E_SOLVER_MODULE */
export function parseSpec(spec: string): ModuleSpec {
  const found =
    /^([^:/]+)(?::([^:/]+)(?::([-\d*?![\]]+)(?::([^:/]+))?)?)?(?:::([^:/]+))?(?:\/([^/]+))?$/.exec(
      spec,
    );
  if (found === null) {
    throw moduleError(`${spec} names no module`, {
      hint: 'it is written NAME:STREAM:VERSION:CONTEXT::ARCH/PROFILE; all but the name may be left out',
    });
  }
  const [, name = '', stream, version, context, arch, profile] = found;
  return { name, stream, version, context, arch, profile };
}

/** The later one counts; where two of one time differ there is no default. */
function mergeDefaults(all: readonly (readonly ModuleDefaults[])[]): Map<string, ModuleDefaults> {
  const merged = new Map<string, ModuleDefaults>();
  for (const defaults of all) {
    for (const one of new Map(defaults.map((entry) => [entry.module, entry])).values()) {
      const before = merged.get(one.module);
      merged.set(one.module, before === undefined ? one : mergeTwo(before, one));
    }
  }
  return merged;
}

function mergeTwo(a: ModuleDefaults, b: ModuleDefaults): ModuleDefaults {
  const [older, newer] = b.modified >= a.modified ? [a, b] : [b, a];
  const conflict =
    a.modified === b.modified &&
    a.stream !== undefined &&
    b.stream !== undefined &&
    a.stream !== b.stream;
  return {
    ...newer,
    stream: conflict ? undefined : (newer.stream ?? older.stream),
    profiles: { ...older.profiles, ...newer.profiles },
  };
}

export function moduleError(message: string, options: { readonly hint?: string } = {}): KilnError {
  return new KilnError('E_SOLVER_MODULE', message, options);
}
