import { compareVersions } from '../../packages/rpm/dependency.ts';
import type { RpmPackage } from '../../packages/rpm/package.ts';
import type { StoredPackage } from '../store/entry.ts';
import { nevra } from '../tree/path.ts';
import type { ControlDirectory } from './control.ts';
import { SOLVED_BEFORE } from './rpm-options.ts';
import { failure } from './run-steps.ts';
import { OUTPUT_LIMIT, type TransactionSandbox } from './transaction-sandbox.ts';

/** Seconds; some thousand packages take a few. */
const DATABASE_TIMEOUT = 600;

/** Stores headers without payloads: everything was verified before, and users are made later. */
const JUST_DATABASE = [
  '-iv',
  '--justdb',
  ...SOLVED_BEFORE,
  '--define',
  '__systemd_sysusers %{nil}',
];

/**
 * Plugins report each package to a log, an audit daemon or a bus, which a sandbox does not have. rpm before
 * 4.12 lacks the option.
 */
const NO_PLUGINS = { since: '4.12', option: '--noplugins' };

/** Where and from what rpm writes its database. */
export interface DatabaseOptions {
  readonly sandbox: TransactionSandbox;
  readonly control: ControlDirectory;
  /** Path of rpm in the sandbox. */
  readonly rpm: string;
  readonly packages: readonly StoredPackage[];
  readonly signal?: AbortSignal | undefined;
}

/**
 * Has the rpm in a sandbox write its database from the packages' headers. @returns the packages in the order in
 * which rpm stored them; undefined if rpm did not print it. @throws KilnError E_SCRIPTLET with rpm's output.
 */
export async function writeDatabase(options: DatabaseOptions): Promise<RpmPackage[] | undefined> {
  const { sandbox, control, rpm, packages, signal } = options;
  const headers = packages.map((stored) => control.addFile(stored.header));
  const version = packages.find((stored) => stored.package.name === 'rpm')?.package.version;
  const known = version !== undefined && compareVersions(version, NO_PLUGINS.since) >= 0;
  const argv = [rpm, ...JUST_DATABASE, ...(known ? [NO_PLUGINS.option] : []), ...headers];
  // A line for each package, in UTF-8, and room for rpm's other output.
  const lines = packages.reduce((sum, stored) => sum + nevra(stored.package).length * 3 + 1, 0);
  const output = OUTPUT_LIMIT + lines;
  const result = await sandbox.run({ argv, timeout: DATABASE_TIMEOUT, signal, output });
  if (result.status !== 0) throw failure('writing the rpm database', result);
  return installationOrder(
    packages.map((stored) => stored.package),
    result.output,
  );
}

/**
 * The order in which rpm stored packages, from its `-v` output. It is rpm's order of installation, which may
 * differ from the lock's.
 */
function installationOrder(
  packages: readonly RpmPackage[],
  output: string,
): RpmPackage[] | undefined {
  const place = new Map(output.split('\n').map((line, index) => [line.trim(), index]));
  const placed = packages.map((of) => ({ of, at: place.get(nevra(of)) }));
  if (placed.some(({ at }) => at === undefined)) return undefined;
  return placed.sort((a, b) => a.at! - b.at!).map(({ of }) => of);
}
