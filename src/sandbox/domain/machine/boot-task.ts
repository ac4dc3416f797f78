/** Makes what a machine boots of a kernel and its modules as they are packed, in a confined child. */
import { readFileSync, writeFileSync } from 'node:fs';
import { arch } from 'node:os';
import { gunzipSync, zstdDecompressSync } from 'node:zlib';
import { attempt } from '../../../host/calls/libc.ts';
import type { SingleTask } from '../../../host/confine/task.ts';
import { IMAGE_MAX, MODULE_MAX } from './kernel.ts';

export interface BootInput {
  /** Where it has the modules, by the names of their files. */
  readonly modules: readonly string[];
  /** Folders of the initramfs, each after the one it is in. */
  readonly folders: readonly string[];
  /** Where it has the init. */
  readonly init: string;
}

export const task: SingleTask = {
  run(input, { fds, emit }) {
    const { modules, folders, init } = input as BootInput;
    const [kernel = -1, initramfs = -1, image = -1, stage0 = -1, guestInit = -1, ...packed] = fds;
    writeFileSync(kernel, unpackedKernel(readFileSync(image)));
    const archive = new Archive();
    for (const folder of folders) archive.add(folder, DIRECTORY);
    archive.add('init', PROGRAM, readFileSync(stage0));
    archive.add(init, PROGRAM, readFileSync(guestInit));
    for (const [index, file] of modules.entries()) {
      const { name, content } = unpackedModule(file, readFileSync(packed[index] ?? -1));
      archive.add(name, FILE, content);
    }
    writeFileSync(initramfs, archive.end());
    emit('made');
  },
};

/** As stage 0 loads it: the kernel itself unpacks what ends in `.xz`. */
function unpackedModule(name: string, content: Buffer) {
  const options = { maxOutputLength: MODULE_MAX };
  if (name.endsWith('.zst'))
    return { name: name.slice(0, -4), content: zstdDecompressSync(content, options) };
  if (name.endsWith('.gz'))
    return { name: name.slice(0, -3), content: gunzipSync(content, options) };
  return { name, content };
}

const ELF = Buffer.from('\x7fELF', 'latin1');
const GZIP = Buffer.from([0x1f, 0x8b]);
const ZSTD = Buffer.from([0x28, 0xb5, 0x2f, 0xfd]);

/**
 * The kernel without what unpacks it at the start, which qemu starts in 0.7 s less; the file itself if it is packed
 * in another way. Source: Documentation/arch/x86/boot.rst.
 */
function unpackedKernel(image: Buffer): Buffer {
  if (arch() !== 'x64' || image.toString('latin1', 0x202, 0x206) !== 'HdrS') return image;
  const setup = (image.readUInt8(0x1f1) || 4) + 1;
  const at = setup * 512 + image.readUInt32LE(0x248);
  const payload = image.subarray(at, at + image.readUInt32LE(0x24c));
  const options = { maxOutputLength: IMAGE_MAX };
  const startsWith = (magic: Buffer) => payload.subarray(0, magic.length).equals(magic);
  const unpacked = startsWith(GZIP)
    ? attempt(() => gunzipSync(payload, options))
    : startsWith(ZSTD)
      ? // The size of what was packed follows the frame.
        attempt(() => zstdDecompressSync(payload.subarray(0, -4), options))
      : undefined;
  return unpacked?.subarray(0, ELF.length).equals(ELF) === true ? unpacked : image;
}

const DIRECTORY = 0o040755;
const PROGRAM = 0o100755;
const FILE = 0o100644;

/** cpio of the form `newc`: Documentation/driver-api/early-userspace/buffer-format.rst. */
class Archive {
  readonly #parts: Buffer[] = [];
  #inode = 1;

  add(name: string, mode: number, content: Buffer = Buffer.alloc(0)): void {
    const fields = [
      ...[this.#inode++, mode, 0, 0, 1, 0, content.length],
      ...[0, 0, 0, 0, name.length + 1, 0],
    ];
    const head = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}${name}\0`;
    this.#parts.push(padded(Buffer.from(head)), padded(content));
  }

  end(): Buffer {
    this.add('TRAILER!!!', 0);
    return Buffer.concat(this.#parts);
  }
}

function padded(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)]);
}
