/** Sandboxes that somebody kills while a command runs in them. */
import { processes, type SeenProcess, signal } from '../../scripts/crash/processes.ts';
import { eventually } from './eventually.ts';

/** What can be killed of a sandbox, of the processes above its command, the nearest first. */
export const VICTIMS = {
  /** In a domain's first moments libvirt does not see that its controller has gone, and the sandbox goes on. */
  libvirt_lxc: (above: readonly SeenProcess[]) =>
    above.find(({ command }) => command.includes('libvirt_lxc')) ?? above.at(-1),
  init: (above: readonly SeenProcess[]) => above.findLast(isInit),
  'the init in its pid namespace': (above: readonly SeenProcess[]) => above.find(isInit),
} as const;

const isInit = ({ command }: SeenProcess) => command === '/kiln-init';

export type Victim = keyof typeof VICTIMS;

/** Kills a part of the sandbox in which `sleep MARK` runs, until that has ended. */
export async function kill(victim: Victim, mark: string): Promise<void> {
  let hit = false;
  await eventually(async () => {
    const all = new Map(processes().map((one) => [one.pid, one]));
    let at = [...all.values()].find(({ command }) => command === `sleep ${mark}`);
    if (at === undefined) return hit;
    const above: SeenProcess[] = [];
    for (; at !== undefined && at.pid !== 1; at = all.get(at.parent)) above.push(at);
    const found = VICTIMS[victim](above);
    if (found !== undefined && signal(found.pid, 'SIGKILL')) hit = true;
    return false;
  });
}

/** Ends a `sleep MARK`, once there is one, as if its time were over. */
export async function endSleep(mark: string): Promise<void> {
  await eventually(async () => {
    const found = processes().find(({ command }) => command === `sleep ${mark}`);
    return found !== undefined && signal(found.pid, 'SIGKILL');
  });
}
