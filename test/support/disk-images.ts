/** File systems in files, as the tools of their own make them. */
import { chmod, chown, mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';

const MAKERS = {
  squashfs: (tree, file) => ['mksquashfs', tree, file, '-quiet', '-no-progress'],
  erofs: (tree, file) => ['mkfs.erofs', '--quiet', file, tree],
  ext4: (tree, file) => ['mke2fs', '-q', '-F', '-t', 'ext4', '-d', tree, file, '16M'],
  // It takes no folder, and no file system below 300 MB.
  xfs: (tree, file) => ['mkfs.xfs', '-q', '-d', `file,name=${file},size=300m`, '-p', `${tree}.xfs`],
} as const satisfies Record<string, (tree: string, file: string) => readonly [string, ...string[]]>;

export type DiskKind = keyof typeof MAKERS;

/** `folder/file` is 1000's and 0640, `closed` root's and 0600, `set-id` 04755; `link` leads to /etc/passwd. */
export async function makeTree(place: string): Promise<string> {
  const tree = join(place, 'tree');
  await mkdir(join(tree, 'folder'), { recursive: true });
  await writeFile(join(tree, 'folder/file'), 'of the image\n');
  await chown(join(tree, 'folder/file'), 1000, 1000);
  await chmod(join(tree, 'folder/file'), 0o640);
  await writeFile(join(tree, 'closed'), 'of its root\n', { mode: 0o600 });
  await writeFile(join(tree, 'set-id'), '');
  await chmod(join(tree, 'set-id'), 0o4755);
  await symlink('/etc/passwd', join(tree, 'link'));
  // mkfs.xfs(8), -p
  const lines = [
    ...['/dev/null', '0 0', 'd--755 0 0', 'folder d--755 0 0'],
    ...[`file ---640 1000 1000 ${tree}/folder/file`, '$', `closed ---600 0 0 ${tree}/closed`],
    ...[`set-id -u-755 0 0 ${tree}/set-id`, 'link l--777 0 0 /etc/passwd', '$', '$', ''],
  ];
  await writeFile(`${tree}.xfs`, lines.join('\n'));
  return tree;
}

/** @returns the file, called as its file system is */
export async function makeDiskImage(tree: string, kind: DiskKind): Promise<string> {
  const file = join(tree, '..', kind);
  const [program, ...args] = MAKERS[kind](tree, file);
  await execa(program, args);
  return file;
}
