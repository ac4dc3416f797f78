import { join } from 'node:path';
import type { Engine } from '../../engine.ts';
import { compareVersions, nevra } from '../../packages/rpm/dependency.ts';
import type { RpmPackage } from '../../packages/rpm/package.ts';
import type { ScriptletPolicy } from '../../recipe/load-image-recipe.ts';
import type { OnImageProgress } from '../progress.ts';
import type { StoredPackage } from '../store/entry.ts';
import type { DeferredOwner } from '../tree/compose.ts';
import type { TreePlan } from '../tree/plan.ts';
import { planTransaction, sysusersLines } from './plan.ts';
import { runSteps, stepError } from './run-steps.ts';
import {
  ControlDirectory,
  OUTPUT_LIMIT,
  SOLVED_BEFORE,
  TransactionSandbox,
} from './transaction-sandbox.ts';

interface FastTransaction {
  readonly engine: Engine;
  readonly packages: readonly StoredPackage[];
  readonly scriptlets: ScriptletPolicy;
  readonly onProgress?: OnImageProgress | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly tree: string;
  readonly plan: TreePlan;
  readonly work: string;
  readonly deferred: readonly DeferredOwner[];
}

/**
 * Runs the scripts of packages whose payloads are in place; the image's own rpm writes its database from the
 * headers. @returns the overlay's upper directory, and warnings. @throws KilnError E_SCRIPTLET, E_DISK
 */
export async function runFastTransaction(
  options: FastTransaction,
): Promise<{ readonly upper: string; readonly warnings: readonly string[] }> {
  const { engine, tree, plan, work, packages, scriptlets, deferred, onProgress, signal } = options;
  const onStep = (label: string) => onProgress?.({ kind: 'script', label });
  const control = new ControlDirectory(join(work, 'control'));
  const scratch = join(work, 'scratch');
  const rpm = findRpm(plan);
  await using sandbox = await TransactionSandbox.open(engine, {
    tree,
    scratch,
    control: control.path,
    disk: scriptlets.disk,
  });
  let order: readonly RpmPackage[] | undefined;
  if (rpm !== undefined) {
    onStep('rpm database');
    order = await writeDatabase({ sandbox, control, rpm, packages, signal });
  }
  order ??= packages.map((stored) => stored.package);
  const warnings = await runSteps(planTransaction(order, plan.shared), {
    sandbox,
    control,
    rpm,
    deferred,
    accountsFrom: accountsFrom(plan),
    timeout: scriptlets.timeout,
    signal,
    onStep,
  });
  await sandbox.finish();
  return { upper: join(scratch, 'upper'), warnings };
}

export function findRpm(plan: TreePlan): string | undefined {
  return RPM_PATHS.find((path) => plan.find(path) !== undefined);
}

export const RPM_PATHS = ['/usr/bin/rpm', '/bin/rpm'];

function accountsFrom(plan: TreePlan): RpmPackage[] {
  return ['/etc/passwd', '/etc/group'].flatMap((path) => {
    const owner = plan.find(path)?.owner;
    return owner ? [owner.package] : [];
  });
}

/** Why unpacking payloads first might give another result than rpm. Empty if it gives the same. */
export function reasonsForExact(packages: readonly RpmPackage[], plan: TreePlan): string[] {
  return [...scriptReasons(packages), ...ownerReasons(packages, plan)];
}

function scriptReasons(packages: readonly RpmPackage[]): string[] {
  const reasons: string[] = [];
  for (const { name, arch, scriptlets, triggers, fileTriggers } of packages) {
    const label = `${name}.${arch}`;
    for (const { kind, body, lua } of scriptlets) {
      // `%pretrans` must run before unpacking; the fast path cannot do that.
      if (kind === 'pretrans') reasons.push(`${label} has a %pretrans scriptlet`);
      if (kind === 'prein' && (lua || !onlyAddsAccounts(body))) {
        reasons.push(`${label} has a %pre scriptlet that does more than add users`);
      }
    }
    for (const script of [...scriptlets, ...triggers, ...fileTriggers]) {
      if (script.expand) reasons.push(`a script of ${label} needs rpm's macros (-e)`);
      if (script.queryFormat) reasons.push(`a script of ${label} is a query format (-q)`);
    }
    if (triggers.some((trigger) => trigger.kind === 'triggerprein')) {
      reasons.push(`${label} has a %triggerprein scriptlet`);
    }
  }
  return [...new Set(reasons)];
}

function ownerReasons(packages: readonly RpmPackage[], plan: TreePlan): string[] {
  const needsShell = plan.needsOwners || packages.some((added) => sysusersLines(added).length > 0);
  const tools = needsShell ? ['/bin/sh', '/usr/bin/chown', '/usr/bin/chgrp', '/usr/bin/chmod'] : [];
  return tools
    .filter((tool) => plan.find(tool) === undefined)
    .map((tool) => `owners must be set, and there is no ${tool}`);
}

/** Their result cannot depend on existing files. */
const HARMLESS: readonly RegExp[] = [
  /^(?:exit(?: 0)?|:|true|fi|then|else|if)$/,
  /^getent (?:passwd|group) [\w.-]+$/,
  /^id(?: -[ugn]+)* [\w.-]+$/,
  /^\[ "?\$1"? (?:-eq|-ge|-gt|-lt|-le|=|==|!=) "?\d+"? \]$/,
  // Not -m: the content of a new home depends on /etc/skel.
  /^(?:\/usr\/sbin\/)?groupadd(?: (?:-[rfogK]+|--(?:system|force|gid))(?: \d+)?)* [\w.-]+$/,
  /^(?:\/usr\/sbin\/)?useradd(?: (?:-[roMN]+|--(?:system|no-create-home|no-user-group)|(?:-[ugGdsc]|--(?:uid|gid|groups|home(?:-dir)?|shell|comment)) ?=?(?:[\w.,/-]+|"[^"$`\\]*"|'[^']*')))* [\w.-]+$/,
  /^(?:\/usr\/sbin\/)?usermod -aG [\w.,-]+ [\w.-]+$/,
];

function onlyAddsAccounts(body: string): boolean {
  const commands = body
    .replace(/\\\n/g, ' ')
    .replace(/(^|\s)#.*$/gm, '')
    .replace(/\s*(?:[12]?|&)>\s*\/dev\/null|\s*2>&1/g, ' ')
    .split(/\n|;|&&|\|\||(?<=^|\s)(?:if|then|else)(?=\s)|(?<=\s)!(?=\s)/)
    .map((command) => command.replace(/\s+/g, ' ').trim())
    .filter((command) => command !== '');
  return commands.every((command) => HARMLESS.some((pattern) => pattern.test(command)));
}

/** Seconds; some thousand packages take a few. */
const DATABASE_TIMEOUT = 600;

/** Everything was verified before, and users are made later. */
const JUST_DATABASE = [
  '-iv',
  '--justdb',
  ...SOLVED_BEFORE,
  '--define',
  '__systemd_sysusers %{nil}',
];

/** Plugins report to a log, an audit daemon or a bus, which a sandbox lacks. rpm before 4.12 lacks the option. */
const NO_PLUGINS = { since: '4.12', option: '--noplugins' };

interface DatabaseOptions {
  readonly sandbox: TransactionSandbox;
  readonly control: ControlDirectory;
  readonly rpm: string;
  readonly packages: readonly StoredPackage[];
  readonly signal?: AbortSignal | undefined;
}

/**
 * The rpm in the sandbox writes it from the packages' headers. @returns the packages in the order in which rpm
 * stored them; undefined if rpm did not print it. @throws KilnError E_SCRIPTLET with rpm's output
 */
async function writeDatabase(options: DatabaseOptions): Promise<RpmPackage[] | undefined> {
  const { sandbox, control, rpm, packages, signal } = options;
  const headers = packages.map((stored) => control.addFile(stored.header));
  const version = packages.find((stored) => stored.package.name === 'rpm')?.package.version;
  const known = version !== undefined && compareVersions(version, NO_PLUGINS.since) >= 0;
  const argv = [rpm, ...JUST_DATABASE, ...(known ? [NO_PLUGINS.option] : []), ...headers];
  // A line for each package, in UTF-8, and room for rpm's other output.
  const lines = packages.reduce((sum, stored) => sum + nevra(stored.package).length * 3 + 1, 0);
  const output = OUTPUT_LIMIT + lines;
  const result = await sandbox.run({ argv, timeout: DATABASE_TIMEOUT, signal, output });
  if (result.status !== 0) throw stepError('writing the rpm database', result);
  return installationOrder(
    packages.map((stored) => stored.package),
    result.output,
  );
}

function installationOrder(
  packages: readonly RpmPackage[],
  output: string,
): RpmPackage[] | undefined {
  const place = new Map(output.split('\n').map((line, index) => [line.trim(), index]));
  const placed = packages.map((of) => ({ of, at: place.get(nevra(of)) }));
  if (placed.some(({ at }) => at === undefined)) return undefined;
  return placed.sort((a, b) => a.at! - b.at!).map(({ of }) => of);
}
