import { constants, existsSync, openSync } from 'node:fs';
import { mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { tryLockDescriptor } from '../../host/files/flock.ts';
import { type HeldPath, ownPath } from '../../host/files/held.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import { runProgram } from '../../host/process/child-process.ts';
import { nodePath } from '../../host/process/own-node.ts';
import { hasSystemd } from '../../host/process/process.ts';
import { packageRoot } from '../../host/state/package-root.ts';
import { DEFAULT_STATE, type StatePaths } from '../../host/state/paths.ts';
import { shellWord } from '../../shell-words.ts';
import { checkServiceName, type StoredService } from '../lifecycle/store.ts';
import { unitName } from '../unit/load-unit.ts';

/** Texts by the names of their files. */
type HostFiles = Readonly<Record<string, string>>;

const WRITTEN = '# Written by `kiln service install`.\n';

export interface KilnInvocation {
  readonly command: readonly string[];
  readonly env: Readonly<Record<string, string>>;
}

export function hostUnitName(service: string): string {
  return `kiln@${service}.service`;
}

/** Quotes a word for a command line in a unit (systemd.service(5)): `%` and `$` have no meaning in it. */
function quoted(word: string): string {
  const escaped = escapedSetting(word).replaceAll('$', '$$$$');
  return /^[\w@%+=:,./-]+$/.test(escaped) ? escaped : `"${escaped}"`;
}

/** Escapes text between quotes in a unit (systemd.syntax(7)): the result is one line. */
function escapedSetting(text: string): string {
  return text
    .replace(/[\\"]/g, '\\$&')
    .replaceAll('%', '%%')
    .replace(
      /[\u0001-\u001f\u007f]/g,
      (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`,
    );
}

function environmentLines(env: KilnInvocation['env']): string {
  return Object.entries(env)
    .map(([name, value]) => escapedSetting(`${name}=${value}`))
    .map((setting) => `Environment="${setting}"\n`)
    .join('');
}

/** The units that all services share. The sandbox belongs to libvirt and dies with the supervisor's connection. */
export function sharedUnits({ command, env }: KilnInvocation): HostFiles {
  const kiln = command.map(quoted).join(' ');
  return {
    'kiln@.service': `${WRITTEN}[Unit]
Description=kiln service %i
After=network.target local-fs.target libvirtd.service virtlxcd.service
PartOf=kiln-services.target
StartLimitIntervalSec=60
StartLimitBurst=10

[Service]
Type=notify
NotifyAccess=all
${environmentLines(env)}ExecStart=${kiln} service supervise --echo %i
ExecReload=${kiln} service reload %i
Restart=on-failure
RestartSec=1
# sysexits.h: the service's own configuration or start is at fault; the log says what.
RestartPreventExitStatus=78
# The supervisor stops the units in order; TimeoutStopSec= of theirs is the bound.
KillMode=mixed
KillSignal=SIGTERM
TimeoutStartSec=infinity
TimeoutStopSec=infinity
SyslogIdentifier=kiln-%i

[Install]
WantedBy=multi-user.target kiln-services.target
`,
    'kiln-services.target': `${WRITTEN}[Unit]
Description=All kiln services
`,
    'kiln-logrotate.service': `${WRITTEN}[Unit]
Description=Rotate the logs in kiln services

[Service]
Type=oneshot
${environmentLines(env)}ExecStart=${kiln} service logrotate
`,
    'kiln-logrotate.timer': `${WRITTEN}[Unit]
Description=Rotate the logs in kiln services every day

[Timer]
OnCalendar=daily
RandomizedDelaySec=1h
Persistent=true

[Install]
WantedBy=timers.target
`,
  };
}

function unitTarget(unit: string): string {
  return `kiln-unit-${unit.replace(/\.service$/, '')}.target`;
}

function serviceFiles({ name, definition }: StoredService): HostFiles {
  const units = definition.units.map(unitName);
  const description = definition.description.replaceAll('%', '%%').replace(/[\r\n]+/g, ' ');
  const lines = [
    ...(description === '' ? [] : [`Description=kiln service %i: ${description}`]),
    ...units.map((unit) => `ReloadPropagatedFrom=${unit}`),
    ...units.map((unit) => `PartOf=${unitTarget(unit)}`),
  ];
  const wants = `${WRITTEN}[Unit]\nWants=${hostUnitName(name)}\n`;
  return Object.fromEntries([
    [`${hostUnitName(name)}.d/kiln.conf`, `${WRITTEN}[Unit]\n${lines.join('\n')}\n`],
    ...units.flatMap((unit) => [
      [unitTarget(unit), `${WRITTEN}[Unit]\nDescription=All kiln services that run ${unit}\n`],
      [memberFile(unitTarget(unit), name), wants],
    ]),
  ]);
}

function memberFile(target: string, service: string): string {
  return `${target}.d/${service}.conf`;
}

export function cronFile({ command, env }: KilnInvocation): string {
  const line = [
    ...Object.entries(env).map(([name, value]) => `${name}=${shellWord(value)}`),
    ...command.map(shellWord),
    'service logrotate --quiet',
  ].join(' ');
  if (/[\n\r]/.test(line)) {
    throw new KilnError('E_STATE', 'a line of crontab(5) cannot hold a path with a line break', {
      hint: 'keep KILN_STATE in a folder without one in its name, or use the systemd timer',
    });
  }
  return `# Written by \`kiln service install --cron\`: the logs in kiln services, every day.\n17 3 * * * root ${line.replaceAll('%', '\\%')}\n`;
}

/**
 * By a path that stays right after an update. A host unit inherits nothing of its writer's environment: the
 * variables find the same state, libvirt and Node.
 */
export function hostInvocation(
  paths: StatePaths,
  { KILN_URI = '' }: NodeJS.ProcessEnv,
): KilnInvocation {
  const env = {
    ...(paths.root === DEFAULT_STATE ? {} : { KILN_STATE: paths.root }),
    ...(KILN_URI === '' ? {} : { KILN_URI }),
    KILN_NODE: nodePath(),
  };
  return { command: [join(packageRoot(), 'bin/kiln-node')], env };
}

export const UNIT_FOLDER = {
  persistent: ownPath('/etc/systemd/system'),
  runtime: ownPath('/run/systemd/system'),
} as const;

/** Between two looks whether others have written their units, ms. */
const PAUSE = 10;

export async function writeHostUnits(
  services: readonly StoredService[],
  invocation: KilnInvocation,
  folder: HeldPath,
): Promise<string[]> {
  const files = Object.assign({}, sharedUnits(invocation), ...services.map(serviceFiles));
  await mkdir(folder, { recursive: true });
  // Services that start at once write the same units.
  using lock = closing(openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY));
  while (!tryLockDescriptor(lock.fd)) await sleep(PAUSE);
  // Units that the service ran when its files were written before may not be its own any more.
  for (const { name } of services) await removeHostUnit(name, folder);
  for (const [name, text] of Object.entries<string>(files)) {
    const path = join(folder, name);
    await mkdir(dirname(path), { recursive: true });
    await rm(`${path}.new`, { force: true });
    await writeFile(`${path}.new`, text, { flag: 'wx' });
    await rename(`${path}.new`, path);
  }
  return Object.keys(files).map((name) => join(folder, name));
}

export async function removeHostUnit(service: string, folder: string): Promise<boolean> {
  checkServiceName(service);
  const own = join(folder, `${hostUnitName(service)}.d`);
  if (!existsSync(own)) return false;
  for (const name of await readdir(folder)) {
    if (!/^kiln-unit-.+\.target$/.test(name)) continue;
    await rm(join(folder, memberFile(name, service)), { force: true });
    if ((await readdir(join(folder, `${name}.d`)).catch(() => [])).length > 0) continue;
    await removeTree(join(folder, `${name}.d`));
    await rm(join(folder, name), { force: true });
  }
  await removeTree(own);
  return true;
}

export async function systemctl(...args: readonly string[]): Promise<string> {
  try {
    // Starting a service takes as long as its units take; a waiting caller asks the supervisor.
    return (await runProgram('systemctl', [...args], { works: args[0] === 'restart' })).stdout;
  } catch (cause) {
    throw new KilnError('E_SYSTEMD', `systemctl ${args.join(' ')} failed`, {
      cause,
      hint: 'systemctl status and journalctl -u tell more',
    });
  }
}

/** Without an installed unit, writes one that lasts until the reboot. False on a host without systemd. */
export async function ensureHostUnit(
  service: StoredService,
  invocation: KilnInvocation,
): Promise<boolean> {
  if (!hasSystemd()) return false;
  if (!existsSync(join(UNIT_FOLDER.persistent, 'kiln@.service'))) {
    await writeHostUnits([service], invocation, UNIT_FOLDER.runtime);
    await systemctl('daemon-reload');
  }
  return true;
}
