import { join } from 'node:path';
import { defined } from '../../defined.ts';
import type { RpmPackage } from '../../packages/rpm/package.ts';
import type { Engine } from '../../sandbox/open.ts';
import type { StoredPackage } from '../store/entry.ts';
import type { DeferredOwner } from '../tree/compose.ts';
import type { TreePlan } from '../tree/plan.ts';
import { ControlDirectory } from './control.ts';
import { writeDatabase } from './database.ts';
import { planTransaction } from './plan.ts';
import { runSteps } from './run-steps.ts';
import { TransactionSandbox } from './transaction-sandbox.ts';

/** What {@link runFastTransaction} needs. */
export interface FastTransaction {
  readonly engine: Engine;
  /** The composed tree with all payloads. It is not changed. */
  readonly tree: string;
  readonly plan: TreePlan;
  /** An empty folder for the sandbox's files. */
  readonly work: string;
  readonly packages: readonly StoredPackage[];
  readonly deferred: readonly DeferredOwner[];
  /** The time limit for each script, seconds. */
  readonly timeout: number;
  /** Bytes that may be written. */
  readonly disk: number;
  readonly signal?: AbortSignal | undefined;
  readonly onStep?: (label: string) => void;
}

/**
 * Runs the scripts of packages whose payloads are in place, and has the image's own rpm write its database from
 * the headers. @returns the overlay's upper directory with the changes, and warnings. @throws KilnError
 * E_SCRIPTLET, E_DISK
 */
export async function runFastTransaction(
  options: FastTransaction,
): Promise<{ readonly upper: string; readonly warnings: readonly string[] }> {
  const { engine, tree, plan, work, packages, signal } = options;
  const control = new ControlDirectory(join(work, 'control'));
  const scratch = join(work, 'scratch');
  const rpm = findRpm(plan);
  await using sandbox = await TransactionSandbox.open(engine, {
    tree,
    scratch,
    control: control.path,
    disk: options.disk,
  });
  let order: readonly RpmPackage[] | undefined;
  if (rpm !== undefined) {
    options.onStep?.('rpm database');
    order = await writeDatabase({ sandbox, control, rpm, packages, signal });
  }
  order ??= packages.map((stored) => stored.package);
  const warnings = await runSteps(planTransaction(order, plan.shared), {
    sandbox,
    control,
    rpm,
    deferred: options.deferred,
    accountsFrom: accountsFrom(plan),
    timeout: options.timeout,
    signal,
    ...defined({ onStep: options.onStep }),
  });
  await sandbox.finish();
  return { upper: join(scratch, 'upper'), warnings };
}

/** The path of the tree's own rpm; undefined if there is none. */
export function findRpm(plan: TreePlan): string | undefined {
  return RPM_PATHS.find((path) => plan.find(path) !== undefined);
}

const RPM_PATHS = ['/usr/bin/rpm', '/bin/rpm'];

/** The packages that bring the files of users and groups. */
function accountsFrom(plan: TreePlan): RpmPackage[] {
  return ['/etc/passwd', '/etc/group'].flatMap((path) => {
    const owner = plan.find(path)?.owner;
    return owner ? [owner.package] : [];
  });
}
