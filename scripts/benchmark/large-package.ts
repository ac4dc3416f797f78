/** A package of 2 GB in 16 files, made of the files of the bed's own image. */
import { mkdir, open, readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Bed } from './bed.ts';
import { execute } from './measure.ts';

const FILES = 16;
const FILE_SIZE = 2 ** 27;

const SPEC = `Name: large
Version: 1
Release: 1
Summary: A large package
License: MIT
BuildArch: noarch
AutoReqProv: no
%description
%files
/srv/large
`;

/** Its file; made once. */
export async function largePackage(bed: Bed): Promise<string> {
  const directory = join(bed.scratch, 'large');
  const file = join(directory, 'noarch/large-1-1.noarch.rpm');
  if (await stat(file).catch(() => undefined)) return file;
  const root = join(directory, 'root');
  const content = join(root, 'srv/large');
  await mkdir(content, { recursive: true });
  await writeContent(join(bed.tree, 'usr'), content);
  const spec = join(directory, 'large.spec');
  await writeFile(spec, SPEC);
  const macros = {
    _topdir: directory,
    _rpmdir: directory,
    _binary_payload: 'w3T0.zstdio',
    __os_install_post: '%{nil}',
    debug_package: '%{nil}',
    _build_id_links: 'none',
  };
  const defines = Object.entries(macros).flatMap(([name, value]) => [
    '--define',
    `${name} ${value}`,
  ]);
  await execute(['rpmbuild', '-bb', '--buildroot', root, ...defines, spec]);
  return file;
}

/** Fills the files with what regular files below `from` hold, again and again. */
async function writeContent(from: string, to: string): Promise<void> {
  const entries = await readdir(from, { recursive: true, withFileTypes: true });
  const sources = entries.filter((entry) => entry.isFile());
  let next = 0;
  for (let number = 0; number < FILES; number++) {
    await using out = await open(join(to, String(number)), 'w');
    for (let size = 0; size < FILE_SIZE; next++) {
      const source = sources[next % sources.length]!;
      await using input = await open(join(source.parentPath, source.name));
      const piece = (await input.readFile()).subarray(0, FILE_SIZE - size);
      await out.writeFile(piece);
      size += piece.length;
    }
  }
}
