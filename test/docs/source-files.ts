/** Files of a reader's own that the commands of the pages name. */
import { cp, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { sourcePackage } from '../build/source-packages.ts';
import { TOP } from './blocks.ts';

/** Puts them into a folder: a program with its Makefile and its spec, and source packages that need each other. */
export async function writeSourceFiles(folder: string): Promise<void> {
  await cp(join(TOP, 'recipes/examples/hello/hello.c'), join(folder, 'hello.c'));
  const makefile = 'hello: hello.c\n\tcc -o hello hello.c\ncheck: hello\n\t./hello\n';
  await writeFile(join(folder, 'Makefile'), makefile);
  await sourcePackage(folder, { name: 'hello', version: '2.12' });
  await sourcePackage(folder, { name: 'liba' });
  await sourcePackage(folder, { name: 'libb', buildRequires: ['liba-devel'] });
  await sourcePackage(folder, { name: 'app', buildRequires: ['libb-devel'] });
  const unpack = 'rpm2archive hello-2.12-1.src.rpm | tar -xz';
  await execa('bash', ['-c', unpack], { cwd: folder });
}
