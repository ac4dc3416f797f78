import type { RpmHeader } from './header.ts';
import { fileTypeOf, type RpmFile, type RpmFileFlag, rpmError } from './package.ts';
import { fileFlags, Tag } from './tags.ts';

/** Hash algorithms by their OpenPGP number (RFC 9580, 9.5), named as node:crypto names them. */
const HASHES: Readonly<Record<number, string>> = {
  1: 'md5',
  2: 'sha1',
  3: 'ripemd160',
  8: 'sha256',
  9: 'sha384',
  10: 'sha512',
  11: 'sha224',
  12: 'sha3-256',
  14: 'sha3-512',
};

export function hashName(number: number): string | undefined {
  return HASHES[number];
}

/** The algorithm of the files' digests; md5 if the header does not name one. */
export function fileDigestAlgorithm(header: RpmHeader): string {
  const number = header.number(Tag.fileDigestAlgo) ?? 1;
  const name = hashName(number);
  if (name !== undefined) return name;
  throw rpmError('E_RPM_UNSUPPORTED', `its files are hashed with the unknown algorithm ${number}`);
}

export function readFiles(header: RpmHeader): RpmFile[] {
  const paths = readPaths(header);
  const column = <Value>(what: string, values: Value[] | undefined): Value[] | undefined => {
    if (values === undefined || values.length === paths.length) return values;
    const message = `the header is broken: ${paths.length} files have ${values.length} ${what}`;
    throw rpmError('E_RPM_FORMAT', message);
  };
  const numbers = (what: string, tag: number) => column(what, header.numbers(tag));
  const strings = (what: string, tag: number) => column(what, header.strings(tag));

  const sizes = numbers('sizes', Tag.longFileSizes) ?? numbers('sizes', Tag.fileSizes);
  const modes = numbers('modes', Tag.fileModes);
  const mtimes = numbers('times', Tag.fileMtimes);
  const flags = numbers('flags', Tag.fileFlags);
  const devices = numbers('devices', Tag.fileDevices);
  const inodes = numbers('inodes', Tag.fileInodes);
  const rdevs = numbers('device numbers', Tag.fileRdevs);
  const digests = strings('digests', Tag.fileDigests);
  const links = strings('link targets', Tag.fileLinkTos);
  const owners = strings('owners', Tag.fileUserName);
  const groups = strings('groups', Tag.fileGroupName);
  const caps = strings('capabilities', Tag.fileCaps);

  const linkCounts = countLinks(paths.length, inodes, devices, flags);
  return paths.map((path, i) => {
    const mode = modes?.[i] ?? 0;
    const type = fileTypeOf(mode);
    const device = devices?.[i] ?? 0;
    const inode = inodes?.[i] ?? 0;
    return {
      path,
      type,
      mode,
      owner: owners?.[i] ?? 'root',
      group: groups?.[i] ?? 'root',
      size: sizes?.[i] ?? 0,
      mtime: mtimes?.[i] ?? 0,
      digest: digests?.[i] || null,
      linkTarget: type === 'symlink' ? (links?.[i] ?? '') : null,
      flags: flagNames(flags?.[i] ?? 0),
      caps: caps?.[i] || null,
      device,
      inode,
      nlink: type === 'file' ? (linkCounts.get(`${device}:${inode}`) ?? 1) : 1,
      rdev: rdevs?.[i] ?? 0,
    };
  });
}

const namedFlags = new Map<number, readonly RpmFileFlag[]>();

function flagNames(bits: number): readonly RpmFileFlag[] {
  let names = namedFlags.get(bits);
  if (names === undefined) {
    const all = Object.keys(fileFlags) as RpmFileFlag[];
    names = all.filter((name) => (bits & fileFlags[name]) !== 0);
    namedFlags.set(bits, names);
  }
  return names;
}

function readPaths(header: RpmHeader): string[] {
  const names = header.strings(Tag.baseNames);
  if (names === undefined) return header.strings(Tag.oldFileNames) ?? [];
  const directories = header.strings(Tag.dirNames) ?? [];
  const indexes = header.numbers(Tag.dirIndexes) ?? [];
  if (indexes.length !== names.length) {
    throw rpmError('E_RPM_FORMAT', 'the header is broken: files and their directories differ');
  }
  return names.map((name, i) => {
    const directory = directories[indexes[i]!];
    if (directory === undefined) {
      throw rpmError('E_RPM_FORMAT', 'the header is broken: a file is in no directory');
    }
    return directory + name;
  });
}

function countLinks(
  count: number,
  inodes: readonly number[] | undefined,
  devices: readonly number[] | undefined,
  flags: readonly number[] | undefined,
): Map<string, number> {
  const counts = new Map<string, number>();
  for (let i = 0; i < count; i += 1) {
    if (((flags?.[i] ?? 0) & fileFlags.ghost) !== 0) continue;
    const key = `${devices?.[i] ?? 0}:${inodes?.[i] ?? i}`;
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  return counts;
}
