import { within } from './deadline.ts';
import type { ServiceUnit } from './unit/service-unit.ts';
import type { MainProcess } from './unit-main.ts';
import type { UnitProcesses } from './unit-processes.ts';

/** What SIGKILL needs, ms. */
const KILL_PATIENCE = 5000;

/** Ends whatever a unit still has, as systemd.kill(5) says. */
export async function terminate(
  unit: ServiceUnit,
  processes: UnitProcesses,
  main: MainProcess | undefined,
): Promise<void> {
  const { killMode, killSignal, sendHangup, sendKill, stopTimeout } = unit;
  if (killMode === 'none') return;
  if (killMode === 'control-group') await processes.signal(killSignal);
  else main?.kill(killSignal);
  if (sendHangup) await processes.signal('SIGHUP');
  if (killMode === 'control-group') {
    if ((await processes.gone(stopTimeout)) || !sendKill) return;
  } else {
    if (main !== undefined) await within(main.end, stopTimeout).catch(() => undefined);
    if (killMode === 'process') return;
  }
  await processes.signal('SIGKILL');
  await processes.gone(KILL_PATIENCE);
}
