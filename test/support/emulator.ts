/**
 * Emulators that are registered with the kernel for as long as a mount namespace lives (Linux 6.7 and newer forget
 * them with the last mount of binfmt_misc), so that nothing stays on this machine. Each test has an architecture of
 * its own: the kernel has one list for all.
 */
import { writeFile } from 'node:fs/promises';

/** ELF headers up to e_machine, and what of them counts: as qemu-user's entries in /usr/share/qemu/binfmt.d have it. */
const MAGIC: Readonly<Record<string, string>> = {
  aarch64:
    '\\x7f\\x45\\x4c\\x46\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00',
  loongarch64:
    '\\x7f\\x45\\x4c\\x46\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\x02\\x01',
  riscv64:
    '\\x7f\\x45\\x4c\\x46\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xf3\\x00',
};
const MASK =
  '\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff';

export type EmulatedArchitecture = 'aarch64' | 'loongarch64' | 'riscv64';

const PLACE = '/proc/sys/fs/binfmt_misc';

/** Words before a command that runs it in a mount namespace of its own where the emulator is registered. */
export function withEmulator(
  arch: EmulatedArchitecture,
  interpreter: string,
  flags = 'F',
): readonly string[] {
  const entry = `:kiln-test-${arch}:M::${MAGIC[arch]}:${MASK}:${interpreter}:${flags}`;
  // An embedded libvirtd that was started there keeps the namespace, and so the entry, until it ends.
  const script = `set -eu; mount -t binfmt_misc none ${PLACE}
    [ -e ${PLACE}/kiln-test-${arch} ] || printf '%s' "$1" >${PLACE}/register; shift; exec "$@"`;
  return ['unshare', '--mount', 'sh', '-c', script, 'sh', entry];
}

/** Words before a command that sees this text in place of an entry, or no entry at all. */
export function seeingEntries(text?: string): readonly string[] {
  const entry = text === undefined ? '' : `printf '%s' "$1" >${PLACE}/qemu`;
  const script = `set -eu; mount -t tmpfs tmpfs ${PLACE}; echo enabled >${PLACE}/status
    ${entry}
    shift; exec "$@"`;
  return ['unshare', '--mount', 'sh', '-c', script, 'sh', text ?? ''];
}

/** A program of an architecture: as much of one as the kernel looks at before it starts the emulator. */
export async function writeForeignProgram(path: string, arch: EmulatedArchitecture): Promise<void> {
  const bytes = (MAGIC[arch] ?? '').split('\\x').slice(1);
  const head = Buffer.from(bytes.join(''), 'hex');
  await writeFile(path, Buffer.concat([head, Buffer.alloc(44)]), { mode: 0o755 });
}
