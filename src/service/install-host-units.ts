import { existsSync } from 'node:fs';
import { mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { KilnError } from '../errors.ts';
import { runProgram } from '../kernel/child-process.ts';
import { removeTree } from '../kernel/remove-tree.ts';
import { hasSystemd } from '../libvirt/embedded/systemd.ts';
import {
  type HostFile,
  hostUnitName,
  type KilnInvocation,
  memberFile,
  serviceFiles,
  sharedUnits,
  templateUnit,
} from './host-units.ts';
import { checkServiceName, type StoredService } from './store.ts';

/** Where an administrator's units are, and where those are that a reboot takes away. */
export const UNIT_FOLDER = {
  persistent: '/etc/systemd/system',
  runtime: '/run/systemd/system',
} as const;

/** Writes the host's units of services into `folder`. Returns the paths. */
export async function writeHostUnits(
  services: readonly StoredService[],
  invocation: KilnInvocation,
  folder: string,
): Promise<string[]> {
  const files: HostFile[] = [
    templateUnit(invocation),
    ...sharedUnits(invocation),
    ...services.flatMap(serviceFiles),
  ];
  // Units that it ran when they were written last are not its own any more.
  for (const { name } of services) await removeHostUnit(name, folder);
  for (const { name, text } of files) {
    const path = join(folder, name);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(`${path}.new`, text);
    await rename(`${path}.new`, path);
  }
  return [...new Set(files.map(({ name }) => join(folder, name)))];
}

/** Removes what is particular to a service; the template stays for others. False when there is nothing. */
export async function removeHostUnit(service: string, folder: string): Promise<boolean> {
  checkServiceName(service);
  const own = join(folder, `${hostUnitName(service)}.d`);
  if (!existsSync(own)) return false;
  for (const name of await readdir(folder)) {
    if (!/^kiln-unit-.+\.target$/.test(name)) continue;
    await rm(join(folder, memberFile(name, service)), { force: true });
    // A target that nobody belongs to any more.
    if ((await readdir(join(folder, `${name}.d`)).catch(() => [])).length > 0) continue;
    await removeTree(join(folder, `${name}.d`));
    await rm(join(folder, name), { force: true });
  }
  await removeTree(own);
  return true;
}

/** Has the host's systemd do something. Throws E_SYSTEMD. */
export async function systemctl(...args: readonly string[]): Promise<string> {
  try {
    // A service starts for as long as its units take; whoever waits for that asks its supervisor.
    return (await runProgram('systemctl', [...args], { works: args[0] === 'restart' })).stdout;
  } catch (cause) {
    throw new KilnError('E_SYSTEMD', `systemctl ${args.join(' ')} failed`, {
      cause,
      hint: 'systemctl status and journalctl -u tell more',
    });
  }
}

/**
 * Has the host's systemd know a service: if nobody installed its unit, one that lasts until the
 * reboot. False where no systemd runs.
 */
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
