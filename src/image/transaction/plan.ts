import { compareEvr, nevra, parseEvr, Sense } from '../../packages/rpm/dependency.ts';
import type {
  RpmDependency,
  RpmFile,
  RpmFileTrigger,
  RpmPackage,
  RpmScript,
  RpmScriptletKind,
  RpmTrigger,
} from '../../packages/rpm/package.ts';

/** File triggers of at least this priority run before %post, the others after it. */
const EARLY_PRIORITY = 10_000;

export type TransactionStep =
  | {
      readonly kind: 'script';
      readonly label: string;
      readonly script: RpmScript;
      readonly counts: readonly number[];
      readonly input: readonly string[];
    }
  | {
      readonly kind: 'sysusers';
      readonly label: string;
      readonly lines: readonly string[];
    }
  | { readonly kind: 'payload'; readonly package: RpmPackage };

/**
 * What rpm does to install packages into an empty root, in its order (rpmtsRun and rpmPackageInstall of 4.20).
 * @param added in installation order
 * @param skipped files that are not installed, since another package has the same
 */
export function planTransaction(
  added: readonly RpmPackage[],
  skipped: ReadonlySet<RpmFile>,
): TransactionStep[] {
  const planner = new Planner(skipped);
  for (const each of added) planner.scriptlet(each, 'pretrans', 1);
  for (const each of added) planner.install(each);
  for (const each of added) planner.scriptlet(each, 'posttrans', 0);
  planner.transactionTriggers(added);
  return planner.steps;
}

class Planner {
  readonly steps: TransactionStep[] = [];
  readonly #installed: RpmPackage[] = [];
  readonly #withTriggers: RpmPackage[] = [];
  readonly #withFileTriggers: RpmPackage[] = [];
  readonly #counts = new Map<string, number>();
  readonly #skipped: ReadonlySet<RpmFile>;

  constructor(skipped: ReadonlySet<RpmFile>) {
    this.#skipped = skipped;
  }

  scriptlet(of: RpmPackage, kind: RpmScriptletKind, coming: 0 | 1): void {
    const script = of.scriptlets.find((candidate) => candidate.kind === kind);
    if (script === undefined) return;
    this.#run(of, LABELS[kind] ?? kind, script, [this.#count(of.name) + coming]);
  }

  install(added: RpmPackage): void {
    const lines = sysusersLines(added);
    if (lines.length > 0) {
      this.steps.push({ kind: 'sysusers', label: `%sysusers(${nevra(added)})`, lines });
    }
    this.#triggers(added, 'triggerprein');
    this.scriptlet(added, 'prein', 1);
    this.steps.push({ kind: 'payload', package: added });
    this.#installed.push(added);
    if (added.triggers.length > 0) this.#withTriggers.push(added);
    if (added.fileTriggers.length > 0) this.#withFileTriggers.push(added);
    this.#counts.set(added.name, this.#count(added.name) + 1);
    this.#fileTriggers(added, (priority) => priority >= EARLY_PRIORITY);
    this.scriptlet(added, 'postin', 0);
    this.#triggers(added, 'triggerin');
    this.#fileTriggers(added, (priority) => priority < EARLY_PRIORITY);
  }

  transactionTriggers(added: readonly RpmPackage[]): void {
    for (const owner of added) {
      for (const trigger of byPriority(fileTriggersOf(owner, 'transaction'))) {
        const { files } = filesInDatabase(this.#installed, trigger.prefixes);
        if (files.length === 0) continue;
        this.#run(owner, 'transfiletriggerin', trigger, [this.#count(owner.name)], files);
      }
    }
  }

  /** Runs triggers that the package fires, then its own that others have fired already. */
  #triggers(added: RpmPackage, kind: RpmTrigger['kind']): void {
    const instances = this.#count(added.name);
    for (const owner of this.#withTriggers) {
      const trigger = firstTrigger(owner, added, kind);
      if (trigger !== undefined) {
        this.#run(owner, kind, trigger, [this.#count(owner.name), instances]);
      }
    }
    const done = new Set<RpmTrigger>();
    for (const named of added.triggers) {
      for (const { name } of named.conditions) {
        if (done.has(named)) break;
        const sources = this.#installed.filter((source) => source.name === name);
        for (const source of sources) {
          const trigger = firstTrigger(added, source, kind);
          if (trigger === undefined || done.has(trigger)) continue;
          done.add(trigger);
          this.#run(added, kind, trigger, [this.#count(added.name), sources.length]);
        }
      }
    }
  }

  /** Runs triggers of all installed packages for this package's files, then its own for all files. */
  #fileTriggers(added: RpmPackage, wanted: (priority: number) => boolean): void {
    const instances = this.#count(added.name);
    const fired = this.#withFileTriggers
      .flatMap((owner) => fileTriggersOf(owner, 'package').map((trigger) => ({ owner, trigger })))
      .sort((a, b) => b.trigger.priority - a.trigger.priority);
    for (const { owner, trigger } of fired) {
      if (!wanted(trigger.priority)) continue;
      const files = filesInPackage(added, trigger.prefixes, this.#skipped);
      if (files.length === 0) continue;
      this.#run(owner, 'filetriggerin', trigger, [this.#count(owner.name), instances], files);
    }
    for (const trigger of byPriority(fileTriggersOf(added, 'package'))) {
      if (!wanted(trigger.priority)) continue;
      const { files, lastPackage } = filesInDatabase(this.#installed, trigger.prefixes);
      if (files.length === 0) continue;
      const others = lastPackage === undefined ? [] : [this.#count(lastPackage)];
      this.#run(added, 'filetriggerin', trigger, [instances, ...others], files);
    }
  }

  #run(
    owner: RpmPackage,
    name: string,
    script: RpmScript,
    counts: readonly number[],
    input: readonly string[] = [],
  ): void {
    this.steps.push({
      kind: 'script',
      label: `%${name}(${nevra(owner)})`,
      script,
      counts,
      input,
    });
  }

  #count(name: string): number {
    return this.#counts.get(name) ?? 0;
  }
}

const LABELS: Partial<Record<RpmScriptletKind, string>> = { postin: 'post' };

function firstTrigger(
  owner: RpmPackage,
  source: RpmPackage,
  kind: RpmTrigger['kind'],
): RpmTrigger | undefined {
  return owner.triggers.find(
    (trigger) =>
      trigger.kind === kind &&
      trigger.conditions.some(
        (condition) =>
          condition.name === source.name &&
          source.dependencies.provides.some((provided) => meetsCondition(provided, condition)),
      ),
  );
}

function fileTriggersOf(of: RpmPackage, scope: RpmFileTrigger['scope']): RpmFileTrigger[] {
  return of.fileTriggers.filter(
    (trigger) => trigger.kind === 'filetriggerin' && trigger.scope === scope,
  );
}

function byPriority(triggers: readonly RpmFileTrigger[]): RpmFileTrigger[] {
  return [...triggers].sort((a, b) => b.priority - a.priority);
}

/** As rpmdsCompare and rpmverOverlap of rpm's lib/. A side without a version meets everything. */
export function meetsCondition(provided: RpmDependency, condition: RpmDependency): boolean {
  if (provided.name !== condition.name) return false;
  const [a, b] = [provided.operator, condition.operator];
  if (a === '' || b === '' || provided.version === '' || condition.version === '') return true;
  const order = compareWhereGiven(provided.version, condition.version);
  if (order < 0) return a.includes('>') || b.includes('<');
  if (order > 0) return a.includes('<') || b.includes('>');
  return ['=', '<', '>'].some((sign) => a.includes(sign) && b.includes(sign));
}

function compareWhereGiven(one: string, two: string): number {
  const a = parseEvr(one);
  const b = parseEvr(two);
  if (a.release !== '' && b.release !== '') return compareEvr(a, b);
  return compareEvr({ ...a, release: '' }, { ...b, release: '' });
}

/** Since rpm 4.19: base64 versions of `user(NAME)`, `group(NAME)`, `groupmember(USER/GROUP)` provides. */
export function sysusersLines(of: RpmPackage): string[] {
  return of.dependencies.provides
    .filter(
      ({ name, flags }) =>
        /^(?:user|group|groupmember)\(/.test(name) && (flags & Sense.equal) !== 0,
    )
    .map(({ version }) => decode(version))
    .filter((line) => line !== undefined);
}

function decode(version: string): string | undefined {
  if (!/^[A-Za-z0-9+/\s]+={0,2}$/.test(version) || version.length % 4 !== 0) return undefined;
  return Buffer.from(version, 'base64').toString('utf8').replace(/\0.*$/s, '');
}

/** Files that fire a file trigger, in order: rpm's own behaviour (lib/rpmtriggers.c of 4.20), however odd. */

function filesInPackage(
  of: RpmPackage,
  prefixes: readonly string[],
  skipped: ReadonlySet<RpmFile>,
): string[] {
  return prefixes.flatMap((prefix) =>
    of.files
      .filter((file) => file.path.startsWith(prefix) && !skipped.has(file))
      .map((file) => file.path),
  );
}

function filesInDatabase(
  installed: readonly RpmPackage[],
  prefixes: readonly string[],
): { readonly files: string[]; readonly lastPackage: string | undefined } {
  const files: string[] = [];
  let lastPackage: string | undefined;
  for (const prefix of prefixes) {
    for (const candidate of installed) {
      // The database is searched by directory names: a prefix within a file's name finds nothing.
      if (!candidate.files.some((file) => dirName(file).startsWith(prefix))) continue;
      const matching = candidate.files.filter((file) => file.path.startsWith(prefix));
      if (matching.length === 0) continue;
      lastPackage = candidate.name;
      files.push(...matching.map((file) => file.path));
    }
  }
  return { files, lastPackage };
}

function dirName(file: RpmFile): string {
  return file.path.slice(0, file.path.lastIndexOf('/') + 1);
}
