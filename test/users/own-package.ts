/** Packages that a user brings. */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { execa } from 'execa';
import { type SpecParts, sourcePackage, specText } from '../build/core/build-state.ts';
import { USER, type UserState } from '../support/second-user.ts';

interface Who {
  readonly uid: number;
  readonly gid: number;
}

/** Makes a source package that only the user reads. */
export async function ownPackage(state: UserState, parts: SpecParts): Promise<string> {
  const folder = join(state.beside, 'packages');
  mkdirSync(folder, { recursive: true });
  const made = await sourcePackage(folder, parts);
  const path = join(state.home, basename(made));
  const { uid, gid } = USER;
  await execa('install', ['-m', '0600', '-o', String(uid), '-g', String(gid), made, path]);
  return path;
}

/** Makes a package in a repository; `folder` and all in it are the user's alone then. */
export async function ownRepository(folder: string, parts: SpecParts, who: Who): Promise<void> {
  mkdirSync(folder, { recursive: true });
  const spec = join(folder, 'x.spec');
  const top = join(folder, 'top');
  writeFileSync(spec, specText(parts));
  const defines = [`_topdir ${top}`, `_rpmdir ${folder}`].flatMap((it) => ['--define', it]);
  await execa('rpmbuild', ['-bb', '--quiet', ...defines, spec]);
  for (const path of [top, spec]) rmSync(path, { recursive: true });
  await execa('createrepo_c', ['--quiet', folder]);
  await execa('chown', ['-Rh', `${who.uid}:${who.gid}`, folder]);
  await execa('chmod', ['-R', 'go=', folder]);
}
