/** Runs a host under emulation, until it powers itself off. */
import { join } from 'node:path';
import { execa } from 'execa';
import type { HostDisk } from './base.ts';

/** A machine that is not off by then hangs. Emulated, everything takes ten times as long. */
const LIMIT_MS = 2 * 3600 * 1000;

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
 * @returns whether it powered off by itself
 */
export async function runMachine(
  host: HostDisk,
  boot: string,
  job: string,
  folder: string,
): Promise<boolean> {
  const accel = process.env.KILN_HOSTS_ACCEL ?? 'tcg,thread=multi,tb-size=512';
  const { failed } = await execa(
    'setpriv',
    [
      // It must not outlive us, however we end.
      '--pdeathsig=KILL',
      'qemu-system-x86_64',
      ...['-machine', 'q35', '-accel', accel, '-cpu', 'max', '-smp', '2', '-m', '4096'],
      ...['-kernel', host.kernel, '-initrd', host.initrd],
      ...['-append', `root=/dev/vda rw console=ttyS0 ${boot}`],
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
      timeout: LIMIT_MS,
    },
  );
  return !failed;
}
