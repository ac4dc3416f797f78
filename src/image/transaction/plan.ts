import type {
  RpmFile,
  RpmFileTrigger,
  RpmPackage,
  RpmScript,
  RpmScriptletKind,
  RpmTrigger,
} from '../../packages/rpm/package.ts';
import { nevra } from '../tree/path.ts';
import { meetsCondition } from './condition.ts';
import { sysusersLines } from './sysusers.ts';
import { filesInDatabase, filesInPackage, packageFires } from './trigger-match.ts';

/** rpm runs file triggers of at least this priority before %post, the others after it. */
const EARLY_PRIORITY = 10_000;

/** One thing that happens in a transaction, in its order. */
export type TransactionStep =
  | {
      readonly kind: 'script';
      /** As rpm's messages call it: `%post(bash-5.2-1.x86_64)`. */
      readonly label: string;
      readonly script: RpmScript;
      /** Instance counts that follow the script's name, as rpm passes them. */
      readonly counts: readonly number[];
      /** Lines of standard input: the files that set off a file trigger. */
      readonly input: readonly string[];
    }
  | {
      readonly kind: 'sysusers';
      readonly label: string;
      /** In the format of sysusers.d(5). */
      readonly lines: readonly string[];
    }
  /** From here on the package's files exist with their owners. */
  | { readonly kind: 'payload'; readonly package: RpmPackage };

/**
 * Everything rpm does to install packages into an empty root, in rpm's order (rpmtsRun and rpmPackageInstall of
 * 4.20). The packages and their order decide all of it, so it is known in advance. @param added packages to
 * install, in installation order. @param skipped files that are not installed, since another package has the
 * same.
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
  /** The installed packages at this moment, in the order of their record numbers. */
  readonly #installed: RpmPackage[] = [];
  /** The installed packages with triggers: few have any, but each new package asks for them. */
  readonly #withTriggers: RpmPackage[] = [];
  readonly #withFileTriggers: RpmPackage[] = [];
  readonly #counts = new Map<string, number>();
  readonly #skipped: ReadonlySet<RpmFile>;

  constructor(skipped: ReadonlySet<RpmFile>) {
    this.#skipped = skipped;
  }

  /** A scriptlet of the package itself. `coming` counts an instance that is not installed yet. */
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

  /** %transfiletriggerin: each package's own, with the files of all. */
  transactionTriggers(added: readonly RpmPackage[]): void {
    for (const owner of added) {
      for (const trigger of byPriority(fileTriggersOf(owner, 'transaction'))) {
        const { files } = filesInDatabase(this.#installed, trigger.prefixes);
        if (files.length === 0) continue;
        this.#run(owner, 'transfiletriggerin', trigger, [this.#count(owner.name)], files);
      }
    }
  }

  /** Triggers that the package fires, then its own that other packages have fired already. */
  #triggers(added: RpmPackage, kind: RpmTrigger['kind']): void {
    const instances = this.#count(added.name);
    for (const owner of this.#withTriggers) {
      const trigger = firstTrigger(owner, added, kind);
      if (trigger !== undefined) {
        this.#run(owner, kind, trigger, [this.#count(owner.name), instances]);
      }
    }
    const done = new Set<RpmTrigger>();
    for (const { name, trigger: named } of triggerNames(added)) {
      if (done.has(named)) continue;
      const sources = this.#installed.filter((source) => source.name === name);
      for (const source of sources) {
        const trigger = firstTrigger(added, source, kind);
        if (trigger === undefined || done.has(trigger)) continue;
        done.add(trigger);
        this.#run(added, kind, trigger, [this.#count(added.name), sources.length]);
      }
    }
  }

  /** %filetriggerin: those of all installed packages for this package's files, then its own for all files. */
  #fileTriggers(added: RpmPackage, wanted: (priority: number) => boolean): void {
    const instances = this.#count(added.name);
    const fired = this.#withFileTriggers
      .flatMap((owner) => fileTriggersOf(owner, 'package').map((trigger) => ({ owner, trigger })))
      .filter(({ trigger }) => packageFires(added, trigger))
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

/** The names in the spec file, which rpm's messages use. */
const LABELS: Partial<Record<RpmScriptletKind, string>> = { postin: 'post' };

/** The one trigger of `owner` that `source` fires: rpm runs no more than one for a pair. */
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

function triggerNames(of: RpmPackage): { readonly name: string; readonly trigger: RpmTrigger }[] {
  return of.triggers.flatMap((trigger) =>
    trigger.conditions.map((condition) => ({ name: condition.name, trigger })),
  );
}

function fileTriggersOf(of: RpmPackage, scope: RpmFileTrigger['scope']): RpmFileTrigger[] {
  return of.fileTriggers.filter(
    (trigger) => trigger.kind === 'filetriggerin' && trigger.scope === scope,
  );
}

/** Highest first; equals stay in the package's order. */
function byPriority(triggers: readonly RpmFileTrigger[]): RpmFileTrigger[] {
  return [...triggers].sort((a, b) => b.priority - a.priority);
}
