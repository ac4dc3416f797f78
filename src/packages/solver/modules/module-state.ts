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
    const { name } = parseSpec(spec);
    for (const found of this.#named(spec, name)) {
      this.disabled.add(found);
      this.enabled.delete(found);
    }
  }

  enable(spec: string): void {
    const { name, stream } = parseSpec(spec);
    for (const found of this.#named(spec, name)) {
      const chosen = this.#streamFor(spec, found, stream);
      const before = this.enabled.get(found);
      if (before !== undefined && before !== chosen) {
        const both = `the streams ${before} and ${chosen} of the module ${found}`;
        throw moduleError(`${both} cannot both be enabled`, { hint: 'enable one of them' });
      }
      this.enabled.set(found, chosen);
      this.disabled.delete(found);
    }
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

  #named(spec: string, name: string): string[] {
    const known = [...new Set(this.streams.map((one) => one.name))];
    const expression = isGlob(name) ? globExpression(name) : undefined;
    const found = known.filter((one) => expression?.test(one) ?? one === name);
    if (found.length > 0) return found;
    const near = known.filter((one) => one.includes(name) || name.includes(one)).slice(0, 5);
    throw moduleError(`no repository has the module ${spec}`, {
      hint:
        known.length === 0
          ? 'none of these repositories has modules at all'
          : `modules there are: ${(near.length > 0 ? near : known.sort().slice(0, 10)).join(', ')}`,
    });
  }

  #streamFor(spec: string, name: string, wanted: string | undefined): string {
    const known = [
      ...new Set(this.streams.filter((one) => one.name === name).map((one) => one.stream)),
    ];
    const byDefault = this.defaults.get(name)?.stream;
    const stream = wanted ?? (known.length === 1 ? known[0] : byDefault);
    if (stream !== undefined && known.includes(stream)) return stream;
    const why =
      wanted === undefined
        ? `${spec} has several streams, and none is the default`
        : `the module ${name} has no stream ${wanted}`;
    throw moduleError(why, {
      hint: `its streams are ${known.sort().join(', ')}: name one as ${name}:STREAM`,
    });
  }
}

/** As libdnf numbers them: of streams that exclude one another the solver keeps the first. */
function inOrder(all: readonly ModuleMetadata[]): ModuleStream[] {
  const sorted = all.flatMap(({ streams }) =>
    [...streams].sort((a, b) => (a.name < b.name ? -1 : Number(a.name > b.name))),
  );
  const isStatic = ({ staticContext }: ModuleStream) => staticContext;
  return [...sorted.filter(isStatic), ...sorted.filter((stream) => !isStatic(stream))];
}

/** `NAME[:STREAM[:…]][/PROFILE]` */
export function parseSpec(spec: string): {
  name: string;
  stream?: string | undefined;
  profile?: string | undefined;
} {
  const [nsvca = '', profile] = spec.split('/', 2);
  const [name = '', stream] = nsvca.split(':');
  return { name, stream: stream || undefined, profile: profile || undefined };
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
