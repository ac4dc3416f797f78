/** Which programs this machine runs: its own, and those of other architectures through an emulator (binfmt_misc). */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { attempt } from '../calls/libc.ts';

export function hostArchitecture(): string {
  const names: Readonly<Record<string, string>> = {
    x64: 'x86_64',
    arm64: 'aarch64',
    ppc64: 'ppc64le',
    ia32: 'i686',
  };
  return names[process.arch] ?? process.arch;
}

/** What a processor runs beside its own. */
const ALSO_RUNS: Readonly<Record<string, readonly string[]>> = {
  x86_64: ['i386', 'i486', 'i586', 'i686', 'x86_64_v2', 'x86_64_v3', 'x86_64_v4'],
  ppc64: ['ppc'],
  s390x: ['s390'],
};

/** Whether programs of `arch` run here without an emulator. */
export function runsItself(arch: string, host: string = hostArchitecture()): boolean {
  return arch === host || (ALSO_RUNS[host] ?? []).includes(arch);
}

/** The bytes of an ELF header that tell architectures apart: 32 or 64 bits, byte order, e_machine. */
type Header = readonly [bits: 32 | 64, order: 'LE' | 'BE', machine: number];

const HEADERS: Readonly<Record<string, Header>> = {
  aarch64: [64, 'LE', 183],
  armv7hl: [32, 'LE', 40],
  i686: [32, 'LE', 3],
  loongarch64: [64, 'LE', 258],
  ppc64le: [64, 'LE', 21],
  riscv64: [64, 'LE', 243],
  s390x: [64, 'BE', 22],
  x86_64: [64, 'LE', 62],
};

/** As rpm calls them. */
export const ARCHITECTURES: readonly string[] = Object.keys(HEADERS);

/** What a shared object, as most programs are, has in e_type; 2 is one with a fixed address. */
const PROGRAM_TYPES = [2, 3];

const HEADER_SIZE = 64;

function programHeader([bits, order, machine]: Header, type: number): Buffer {
  const header = Buffer.alloc(HEADER_SIZE);
  header.set([0x7f, 0x45, 0x4c, 0x46, bits === 64 ? 2 : 1, order === 'LE' ? 1 : 2, 1]);
  const write = (value: number, at: number) =>
    order === 'LE' ? header.writeUInt16LE(value, at) : header.writeUInt16BE(value, at);
  write(type, 16);
  write(machine, 18);
  return header;
}

/** An emulator that is registered with the kernel. */
export interface Emulator {
  /** Its name below /proc/sys/fs/binfmt_misc. */
  readonly entry: string;
  readonly interpreter: string;
  /** Whether the kernel holds the program itself (the flag F), so that sandboxes need not have it. */
  readonly isHeld: boolean;
}

const REGISTERED = '/proc/sys/fs/binfmt_misc';

/** Those that the kernel would start for programs of `arch`: of several, nothing tells here which comes first. */
export function emulatorsOf(arch: string, directory = REGISTERED): Emulator[] {
  const header = HEADERS[arch];
  if (header === undefined || textOf(directory, 'status').trim() !== 'enabled') return [];
  const programs = PROGRAM_TYPES.map((type) => programHeader(header, type));
  return (attempt(() => readdirSync(directory)) ?? []).flatMap((entry) => {
    if (entry === 'status' || entry === 'register') return [];
    const text = textOf(directory, entry);
    const field = (name: string) => new RegExp(`^${name}:? (.*)$`, 'm').exec(text)?.[1] ?? '';
    if (!/^enabled$/m.test(text) || !programs.every((one) => fits(one, field))) return [];
    const isHeld = field('flags').includes('F');
    return [{ entry, interpreter: field('interpreter'), isHeld }];
  });
}

/** An entry may be removed while it is read. */
function textOf(directory: string, name: string): string {
  return attempt(() => readFileSync(join(directory, name), 'latin1')) ?? '';
}

/** As load_misc_binary() of the kernel: an entry of a file name's ending has no magic. */
function fits(program: Buffer, field: (name: string) => string): boolean {
  const magic = Buffer.from(field('magic'), 'hex');
  const mask = field('mask') === '' ? undefined : Buffer.from(field('mask'), 'hex');
  const offset = Number(field('offset'));
  if (magic.length === 0 || !(offset + magic.length <= program.length)) return false;
  return magic.every(
    (byte, at) => (((program[offset + at] ?? 0) ^ byte) & (mask?.[at] ?? 0xff)) === 0,
  );
}

/**
 * @param what the image, as a message names it
 * @throws KilnError E_IMAGE_ARCH unless programs of `arch` run in sandboxes of this machine
 */
export function requireArchitecture(what: string, arch: string | undefined): void {
  // Some images of others say none.
  if (!arch || runsItself(arch)) return;
  const emulators = emulatorsOf(arch);
  const [first] = emulators;
  if (first === undefined) {
    const why = `no emulator of it is registered on this machine, which is ${hostArchitecture()}`;
    throw new KilnError('E_IMAGE_ARCH', `${what} is for ${arch}: ${why}`, { hint: INSTALL });
  }
  const outside = emulators.find(({ isHeld }) => !isHeld);
  if (outside === undefined) return;
  const why = `its emulator ${outside.entry} is registered without the flag F, so no sandbox has ${outside.interpreter}`;
  throw new KilnError('E_IMAGE_ARCH', `${what} is for ${arch}: ${why}`, { hint: REPLACE });
}

/** Debian’s and Fedora’s package; openSUSE’s. */
const PACKAGES = 'qemu-user-static (openSUSE: qemu-linux-user)';

const INSTALL = `install the package ${PACKAGES}, which registers one; \`kiln doctor emulation\` looks for it`;

export const REPLACE = `install the package ${PACKAGES}, whose entry has F; docs/architectures.md shows how an entry is made anew`;

const MARKED = /^(.+)@([a-z0-9_]+)$/;

/** `debian-build@aarch64` is the recipe debian-build for that architecture. */
export function splitArchitecture(word: string): { readonly name: string; readonly arch?: string } {
  const [, name = word, arch = ''] = MARKED.exec(word) ?? [];
  return ARCHITECTURES.includes(arch) ? { name, arch } : { name: word };
}

/** The opposite. This machine's own is not said. */
export function withArchitecture(name: string, arch: string | undefined): string {
  return arch === undefined || arch === hostArchitecture() ? name : `${name}@${arch}`;
}
