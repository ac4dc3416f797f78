/** Runs a host under emulation, until it powers itself off. */
import { join } from 'node:path';
import { execa } from 'execa';
import type { HostDisk } from './base.ts';

/** Of a kernel that is emulated: nothing that costs time and is no part of what kiln runs on. */
const QUICK = 'quiet mitigations=off tsc=reliable no_timer_check cryptomgr.notests';

/**
 * Emulated, the machine's clock goes by what its processor has done, an instruction in a nanosecond, while it does
 * something: no time-out comes too early where emulation is slow, or this machine has other work. One thread emulates
 * all processors then.
 */
const EMULATED = ['-accel', 'tcg,thread=single,tb-size=512', '-icount', 'shift=0'];

/**
 * An old processor: emulated, what programs do faster with the instructions of a new one takes longer, a boot half as
 * long again.
 */
const EMULATED_CPU = 'Nehalem,+rdrand';

/** A machine that is not off by then hangs. Emulated, everything takes ten times as long. */
const LIMIT_MS = 3 * 3600 * 1000;

/**
 * Boots `host` with the job's disk, and passes on what the job says on its second serial line.
 *
 * It may boot more than once: changes to the disks stay until it is off.
 *
 * Software emulation, since /dev/kvm is absent or useless on many build machines; KILN_HOSTS_ACCEL
 * names another accelerator. Changes to the host's own disk are thrown away.
 *
 * @param boot added to the kernel's command line
 * @param folder for console.log, the first serial line
 * @param options how many processors it has, and the milliseconds after which it is killed
 * @returns whether it powered off by itself
 */
export async function runMachine(
  host: HostDisk,
  boot: string,
  job: string,
  folder: string,
  { processors = 2, limit = LIMIT_MS } = {},
): Promise<boolean> {
  const { KILN_HOSTS_ACCEL } = process.env;
  const accel = KILN_HOSTS_ACCEL === undefined ? EMULATED : ['-accel', KILN_HOSTS_ACCEL];
  const cpu = KILN_HOSTS_ACCEL === undefined ? EMULATED_CPU : 'max';
  const { failed } = await execa(
    'setpriv',
    [
      // It must not outlive us, however we end.
      '--pdeathsig=KILL',
      'qemu-system-x86_64',
      ...['-machine', 'q35', ...accel, '-cpu', cpu, '-smp', String(processors), '-m', '4096'],
      ...['-kernel', host.kernel, '-initrd', host.initrd],
      ...['-append', `root=/dev/vda rw console=ttyS0 ${QUICK} ${boot}`],
      ...['-drive', `file=${host.disk},format=raw,if=virtio,snapshot=on`],
      ...['-drive', `file=${job},format=raw,if=virtio,cache=unsafe`],
      ...['-serial', `file:${join(folder, 'console.log')}`, '-serial', 'stdio'],
      ...['-display', 'none', '-monitor', 'none'],
      // A host has an interface that a sandbox must not see; nothing answers on this one.
      ...['-nic', 'user,restrict=on,model=virtio-net-pci'],
    ],
    // qemu keeps the throw-away changes there: gone with the folder.
    {
      env: { TMPDIR: folder },
      stdio: ['ignore', 'inherit', 'inherit'],
      reject: false,
      timeout: limit,
    },
  );
  return !failed;
}
