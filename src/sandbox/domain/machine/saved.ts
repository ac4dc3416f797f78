/**
 * Machines that libvirt has saved once their stage 0 ran, and before there was anything of a sandbox in them. Others are
 * restored of them, which takes less time and memory than to boot. A file is whole or has no name: whoever is killed
 * leaves none.
 */
import { hash } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fdatasync,
  openSync,
  readdirSync,
  rmSync,
  statSync,
  utimesSync,
  writeSync,
} from 'node:fs';
import { release } from 'node:os';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import { closing } from '../../../host/calls/descriptor.ts';
import { attempt, readText, unlessErrno } from '../../../host/calls/libc.ts';
import { nameFile, openNameless } from '../../../host/files/at.ts';
import { readInto } from '../../../host/files/content.ts';
import { runProgram } from '../../../host/process/child-process.ts';
import type { StatePaths } from '../../../host/state/paths.ts';
import { type MachineHardware, type MachineIdentity, machineXml } from './machine-xml.ts';

/** Files of saved machines, in the folder of what machines boot. */
export const SAVED_PREFIX = 'saved-';

/** So many are kept, of different memory, kernel or qemu; the one that was restored longest ago goes first. */
const KEPT = 3;

/** What has no place in a saved machine's name is the same in all that are restored of it. */
const NOBODY: MachineIdentity = { name: '', uuid: '', folder: '', user: 0, group: 0 };

/** The path that a saved machine of this hardware has, or would have; none where a file cannot stand for it. */
export function savedPath(
  paths: StatePaths,
  hardware: MachineHardware,
  virtiofsd: string,
): string | undefined {
  // A network card has an address of its own.
  if (hardware.network !== 'private') return undefined;
  const programs = [hardware.emulator, virtiofsd].map((path) => {
    const { size, mtimeMs } = statSync(path);
    return `${path} ${size} ${Math.floor(mtimeMs)}`;
  });
  // A guest that KVM runs has seen the host's processor, and what its kernel makes of that.
  const host = hardware.accelerator === 'kvm' ? [release(), processor()] : [];
  const key = [machineXml({ ...hardware, ...NOBODY, isSaved: true }), ...programs, ...host];
  return join(paths.machines, `${SAVED_PREFIX}${hash('sha256', key.join('\n')).slice(0, 16)}`);
}

function processor(): string {
  const [first = ''] = (readText('/proc/cpuinfo') ?? '').split('\n\n');
  return first.replace(/^(cpu MHz|bogomips).*\n/gm, '');
}

/** An open file without a name: `path` leads to it for as long as it is open. */
export interface NamelessFile extends Disposable {
  readonly fd: number;
  readonly path: string;
}

function namelessFile({ machines }: StatePaths): NamelessFile {
  using folder = closing(openSync(machines, 'r'));
  const fd = openNameless(folder.fd);
  return {
    fd,
    path: `/proc/${process.pid}/fd/${fd}`,
    [Symbol.dispose]: () => closeSync(fd),
  };
}

/** Has `write` write a machine to a path, and gives that file its name once it is whole. */
export async function keepSaved(
  paths: StatePaths,
  path: string,
  write: (path: string) => Promise<void>,
): Promise<void> {
  using file = namelessFile(paths);
  await write(file.path);
  readHeader(file.fd);
  // A name without its bytes after a power cut would be a machine that hangs.
  await promisify(fdatasync)(file.fd);
  for (const name of leastUsed(paths)) rmSync(join(paths.machines, name), { force: true });
  // Another kiln may have made it first.
  using folder = closing(openSync(paths.machines, 'r'));
  unlessErrno(['EEXIST'], () => nameFile(file.fd, folder.fd, basename(path)));
}

function leastUsed({ machines }: StatePaths): string[] {
  const saved = readdirSync(machines).filter((name) => name.startsWith(SAVED_PREFIX));
  const used = (name: string) =>
    statSync(join(machines, name), { throwIfNoEntry: false })?.mtimeMs ?? 0;
  return saved.sort((a, b) => used(b) - used(a)).slice(KEPT - 1);
}

/** A saved machine as one that has this identity. Undefined where there is none that can be used. */
export async function copySaved(
  paths: StatePaths,
  path: string,
  identity: MachineIdentity,
): Promise<NamelessFile | undefined> {
  if (!existsSync(path)) return undefined;
  const copy = namelessFile(paths);
  try {
    await runProgram('cp', ['--reflink=auto', '--sparse=always', path, copy.path]);
    const header = attempt(() => renamed(readHeader(copy.fd), identity));
    if (header === undefined) forgetSaved(path);
    else writeSync(copy.fd, header, 0, undefined, 0);
    attempt(() => utimesSync(path, new Date(), new Date()));
    if (header !== undefined) return copy;
  } catch {
    // A full disk: a machine boots all the same.
  }
  copy[Symbol.dispose]();
  return undefined;
}

/** One that cannot be restored keeps no other from being saved. */
export function forgetSaved(path: string): void {
  rmSync(path, { force: true });
}

/**
 * What libvirt writes before a machine's memory: { char magic[16]; u32 version, length, running, format, cookie;
 * u32 unused[14]; char data[length] }, of this host's byte order. Of its data the domain's XML is the first text; what
 * libvirt itself wants to know the second, at `cookie`. Source: libvirt's src/qemu/qemu_saveimage.h.
 */
const MAGIC = 'LibvirtQemudSave';
const VERSIONS = [2, 3];
const AT = { version: 16, length: 20, format: 28, cookie: 32, data: 92 } as const;

/** `sparse` of its formats: of another one qemu touches all memory of a restored machine. */
const SPARSE = 6;

/** More is no header. Bytes. */
const DATA_MAX = 1 << 20;

interface SavedHeader {
  readonly bytes: Buffer;
  readonly xml: string;
  readonly cookie: string;
}

/** @throws Error for what libvirt has not written so */
function readHeader(fd: number): SavedHeader {
  const head = readInto(Buffer.alloc(AT.data), fd, 0);
  const [version, length, cookie] = [AT.version, AT.length, AT.cookie].map((at) =>
    head.readUInt32LE(at),
  ) as [number, number, number];
  const isKnown =
    head.toString('latin1', 0, MAGIC.length) === MAGIC &&
    VERSIONS.includes(version) &&
    head.readUInt32LE(AT.format) === SPARSE;
  if (!isKnown || length > DATA_MAX || cookie === 0 || cookie >= length)
    throw new Error('a saved machine of an unknown format');
  const bytes = readInto(Buffer.alloc(AT.data + length), fd, 0);
  const textAt = (at: number) =>
    bytes.toString('utf8', AT.data + at, bytes.indexOf(0, AT.data + at));
  return { bytes, xml: textAt(0), cookie: textAt(cookie) };
}

/**
 * libvirt restores a machine under its own name and uuid only, and its sockets and its user are a sandbox's: the header
 * of a copy gets others.
 */
function renamed({ bytes, xml, cookie }: SavedHeader, to: MachineIdentity): Buffer {
  const only = (pattern: RegExp) => {
    const found = pattern.exec(xml)?.[1];
    if (found === undefined) throw new Error(`a saved machine without ${pattern.source}`);
    return found;
  };
  const words = [
    [only(/<name>([^<]+)<\/name>/), to.name],
    [only(/<uuid>([^<]+)<\/uuid>/), to.uuid],
    [only(/ path='([^']+)\/port\.sock'/), to.folder],
    [only(/<label>(\+\d+:\+\d+)<\/label>/), `+${to.user}:+${to.group}`],
    ...(to.context === undefined
      ? []
      : [[only(/model='selinux'[^>]*>\s*<label>([^<]+)</), to.context] as const]),
  ] as const;
  const change = (text: string) =>
    words.reduce((all, [from, into]) => all.replaceAll(from, into), text);
  const [domain, more] = [change(xml), change(cookie)].map((text) => Buffer.from(`${text}\0`)) as [
    Buffer,
    Buffer,
  ];
  const room = bytes.length - AT.data;
  if (domain.length + more.length > room) throw new Error('a saved machine without room');
  const made = Buffer.alloc(bytes.length);
  bytes.copy(made, 0, 0, AT.data);
  made.writeUInt32LE(domain.length, AT.cookie);
  domain.copy(made, AT.data);
  more.copy(made, AT.data + domain.length);
  return made;
}
