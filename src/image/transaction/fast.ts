import { join } from 'node:path';
import type { RpmPackage } from '../../rpm/package.ts';
import type { Engine, ReservedBox } from '../../sandbox/open.ts';
import type { StoredPackage } from '../store/entry.ts';
import type { DeferredOwner } from '../tree/compose.ts';
import { nevra } from '../tree/file-conflict.ts';
import type { TreePlan } from '../tree/plan.ts';
import { TransactionBox } from './box.ts';
import { ControlDirectory } from './control.ts';
import { planTransaction } from './plan.ts';
import { failure, runSteps } from './run-steps.ts';

/** What {@link runFastTransaction} needs. */
export interface FastTransaction {
  readonly engine: Engine;
  /** The composed tree: all payloads. It stays as it is. */
  readonly tree: string;
  readonly plan: TreePlan;
  /** An empty folder for what happens. */
  readonly work: string;
  readonly reserved: ReservedBox | undefined;
  readonly packages: readonly StoredPackage[];
  readonly deferred: readonly DeferredOwner[];
  /** For each script, seconds. */
  readonly timeout: number;
  readonly signal?: AbortSignal | undefined;
  readonly onStep?: (label: string) => void;
}

/**
 * Runs the scripts of packages whose payloads are in place already, and lets the image's own rpm
 * write its database from the headers.
 * @returns the overlay's upper directory, which holds the changes, and warnings.
 * @throws KilnError E_SCRIPTLET
 */
export async function runFastTransaction(
  options: FastTransaction,
): Promise<{ readonly upper: string; readonly warnings: readonly string[] }> {
  const { engine, tree, plan, work, reserved, signal } = options;
  const control = new ControlDirectory(join(work, 'control'));
  const scratch = join(work, 'scratch');
  const rpm = findRpm(plan);
  await using box = await TransactionBox.open(engine, {
    tree,
    scratch,
    control: control.path,
    reserved,
  });
  let order = options.packages.map((stored) => stored.package);
  if (rpm !== undefined) {
    options.onStep?.('rpm database');
    const headers = options.packages.map((stored) => control.addFile(stored.header));
    const argv = [rpm, ...JUST_DATABASE, ...headers];
    const result = await box.run({ argv, timeout: DATABASE_TIMEOUT, signal });
    if (result.status !== 0) throw failure('writing the rpm database', result);
    order = installationOrder(order, result.output);
  }
  const warnings = await runSteps(planTransaction(order, plan.shared), {
    box,
    control,
    rpm,
    deferred: options.deferred,
    accountsFrom: accountsFrom(plan),
    timeout: options.timeout,
    signal,
    ...(options.onStep === undefined ? {} : { onStep: options.onStep }),
  });
  return { upper: join(scratch, 'upper'), warnings };
}

/** Path of the tree's own rpm, undefined if it has none. */
export function findRpm(plan: TreePlan): string | undefined {
  return ['/usr/bin/rpm', '/bin/rpm'].find((path) => plan.find(path) !== undefined);
}

/** Seconds; some thousand packages take a few. */
const DATABASE_TIMEOUT = 600;

/** Headers without payloads: everything about them has been verified before. Users come later. */
const JUST_DATABASE = [
  '-iv',
  '--justdb',
  '--nodeps',
  '--noverify',
  '--nodigest',
  '--nosignature',
  '--ignorearch',
  '--ignoreos',
  '--ignoresize',
  '--define',
  '__systemd_sysusers %{nil}',
];

/**
 * The order in which rpm has put packages into its database, which it tells with `-v`: that is the
 * order it would have installed them in, and the lock's may be another one.
 */
function installationOrder(packages: readonly RpmPackage[], output: string): RpmPackage[] {
  const place = new Map(output.split('\n').map((line, index) => [line.trim(), index]));
  const placed = packages.map((of) => ({ of, at: place.get(nevra(of)) }));
  if (placed.some(({ at }) => at === undefined)) return [...packages];
  return placed.sort((a, b) => a.at! - b.at!).map(({ of }) => of);
}

/** The packages whose files say which users and groups there are. */
function accountsFrom(plan: TreePlan): RpmPackage[] {
  return ['/etc/passwd', '/etc/group'].flatMap((path) => {
    const owner = plan.find(path)?.owner;
    return owner ? [owner.package] : [];
  });
}
