/** Whether machines start with KVM on this host. That /dev/kvm exists proves nothing: a guest is started to find out. */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { readText } from '../../../host/calls/libc.ts';
import { runTool } from '../../../host/process/child-process.ts';
import type { StatePaths } from '../../../host/state/paths.ts';
import { type BootFiles, KERNEL } from './boot-files.ts';
import type { Accelerator } from './machine-xml.ts';
import { machinePrograms } from './programs.ts';

/** A guest that KVM runs needs a fraction of a second; one that it does not run hangs. Milliseconds. */
const PATIENCE = 10_000;

/** On /run: the next start of the host asks again. */
function answerFile(paths: StatePaths): string {
  return join(paths.hostRun, 'kvm');
}

/** As it was found out since the host has started; undefined if nobody has tried. */
export function knownKvm(paths: StatePaths): { readonly why: string | undefined } | undefined {
  if (!existsSync('/dev/kvm')) return { why: 'this host has no /dev/kvm' };
  const [answer, why] = (readText(answerFile(paths)) ?? '').split(/: (.*)/s);
  if (answer === 'yes') return { why: undefined };
  return answer === 'no' ? { why } : undefined;
}

/** As it is known, or as it is found out now, which may take seconds. */
export async function whyNoKvm(paths: StatePaths, boot: BootFiles): Promise<string | undefined> {
  const known = knownKvm(paths);
  return known === undefined ? await tryKvm(paths, boot) : known.why;
}

/** Starts a guest, and remembers what came of it. */
export async function tryKvm(paths: StatePaths, boot: BootFiles): Promise<string | undefined> {
  if (!existsSync('/dev/kvm')) return 'this host has no /dev/kvm';
  const why = await whyNoGuest('kvm', boot, PATIENCE);
  mkdirSync(paths.hostRun, { recursive: true });
  writeFileSync(answerFile(paths), why === undefined ? 'yes' : `no: ${why}`, { mode: 0o600 });
  return why;
}

/** A kernel that finds no first program ends the machine: so far it comes only where all before works. */
const COMMAND_LINE = 'console=ttyS0 rdinit=/none panic=-1 reboot=t';
const CAME_SO_FAR = 'Kernel panic - not syncing';

/** What is in the way of a guest; nothing where its kernel has come up within a time, milliseconds. */
export async function whyNoGuest(
  accelerator: Accelerator,
  { folder }: BootFiles,
  timeout: number,
): Promise<string | undefined> {
  const { stdout, failure } = await runTool(
    machinePrograms().qemu,
    [
      ...['-accel', accelerator, '-machine', 'q35', '-m', '256', '-nodefaults', '-no-user-config'],
      ...['-display', 'none', '-no-reboot', '-serial', 'stdio', '-kernel', join(folder, KERNEL)],
      ...['-append', COMMAND_LINE],
      ...['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'],
    ],
    { timeout },
  );
  if (failure !== undefined) {
    const why = failure.split('\n').findLast((line) => !line.includes('warning: '));
    // qemu that hangs has said nothing, or only warned.
    return `a guest did not start with it: ${why ?? `no answer within ${timeout / 1000} s`}`;
  }
  return stdout.includes(CAME_SO_FAR) ? undefined : 'a guest ended before its kernel was up';
}
