/** The programs of this host that a machine needs. */
import { existsSync, globSync } from 'node:fs';
import { arch } from 'node:os';
import { KilnError } from '../../../errors.ts';

const PROGRAMS = {
  qemu: ['/usr/bin/qemu-system-x86_64', '/usr/libexec/qemu-kvm'],
  virtiofsd: ['/usr/libexec/virtiofsd', '/usr/lib/qemu/virtiofsd', '/usr/lib/virtiofsd'],
} as const;

/** libvirt's driver of machines: a module that its daemon loads. */
const DRIVER = '{/usr/lib/*,/usr/lib64,/usr/lib}/libvirt/connection-driver/libvirt_driver_qemu.so';

export interface MachinePrograms {
  readonly qemu: string;
  readonly virtiofsd: string;
}

/** @throws KilnError E_MACHINE_MISSING */
export function machinePrograms(): MachinePrograms {
  if (arch() !== 'x64') {
    throw new KilnError('E_MACHINE_MISSING', `machines are for x86-64 only yet, not ${arch()}`, {
      hint: 'leave out --isolation vm',
    });
  }
  if (globSync(DRIVER).length === 0) throw missingError('libvirt’s qemu driver');
  return { qemu: find('qemu'), virtiofsd: find('virtiofsd') };
}

function find(name: keyof MachinePrograms): string {
  const found = PROGRAMS[name].find((path) => existsSync(path));
  if (found === undefined) throw missingError(name);
  return found;
}

function missingError(what: string): KilnError {
  return new KilnError('E_MACHINE_MISSING', `${what} is not installed, and a machine needs it`, {
    hint: 'docs/machines.md lists the packages; `kiln doctor machines` looks for all of them',
  });
}
