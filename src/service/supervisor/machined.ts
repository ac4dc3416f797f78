/**
 * Makes a service known to systemd-machined, so that machinectl and `journalctl -M` find it by its name. Source: the
 * manual page org.freedesktop.machine1(5).
 */
import { existsSync } from 'node:fs';
import { basename } from 'node:path';
import { KilnError, reasonOf } from '../../errors.ts';
import { inOwnGroup, unifiedPath } from '../../host/cgroup/cgroup.ts';
import { runTool } from '../../host/process/child-process.ts';
import { hasSystemd } from '../../host/process/process.ts';
import { hostUnitName } from '../definition/host-units.ts';

const NAME = 'org.freedesktop.machine1';
const MANAGER = [NAME, '/org/freedesktop/machine1', `${NAME}.Manager`];

/** By which the bus starts it; the package systemd-container has it. */
const ACTIVATION = `/usr/share/dbus-1/system-services/${NAME}.service`;

/** A machined that hangs delays a service no longer, ms. */
const PATIENCE = 30_000;

/** @throws KilnError */
async function busctl(...words: readonly string[]): Promise<string> {
  const { stdout, failure } = await runTool('busctl', ['--system', ...words], {
    timeout: PATIENCE,
  });
  if (failure === undefined) return stdout;
  throw new KilnError('E_SETUP', `systemd-machined: ${failure.replace(/^Call failed: /, '')}`);
}

/** The text in busctl's `s "TEXT"`. */
function textIn(answer: string): string {
  return /"(.*)"/.exec(answer)?.[1] ?? '';
}

async function unitOf(machine: string): Promise<string> {
  const path = textIn(await busctl('call', ...MANAGER, 'GetMachine', 's', machine));
  return textIn(await busctl('get-property', NAME, path, `${NAME}.Machine`, 'Unit'));
}

/**
 * Does nothing where the service is not run by its own unit of the host's systemd, or without machined. machined
 * notes the unit that `initPid` is in, stops it to end the machine, and forgets the machine when it has ended. So this
 * process is to be in the unit of this service alone, and the init joins it while machined looks. No command may run.
 * @throws KilnError where machined refuses, or another machine has the name
 */
export async function registerMachine(service: string, initPid: number): Promise<boolean> {
  const unit = hostUnitName(service);
  if (!hasSystemd() || basename(unifiedPath(process.pid)) !== unit) return false;
  if (!existsSync(ACTIVATION)) return false;
  const words = 'sayssusai';
  const values = [service, '0', 'kiln', 'container', String(initPid), '', '0'];
  const register = () =>
    inOwnGroup(initPid, () =>
      busctl('call', ...MANAGER, 'RegisterMachineWithNetwork', words, ...values),
    );
  try {
    await register();
  } catch (error) {
    if (!/already exists/i.test(reasonOf(error))) throw error;
    // After a restart of the unit it has the former sandbox's init.
    if ((await unitOf(service)) !== unit) throw error;
    await busctl('call', ...MANAGER, 'UnregisterMachine', 's', service);
    await register();
  }
  return true;
}
