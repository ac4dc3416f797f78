/** kiln's .deb as it is now, to be tried on another machine: of what the checkout has built, without a sandbox. */
import { existsSync } from 'node:fs';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { KILN_VERSION } from '../../src/host/state/paths.ts';
import { debianDepends, debianRecommends } from './dependencies.ts';

/**
 * Makes the package, the file `target`. scripts/release makes those for users, by the same pack.sh.
 * @param folder for what is on the way; it goes
 */
export async function makeDeb(top: string, folder: string, target: string): Promise<void> {
  const run = execa({ stdio: ['ignore', 'inherit', 'inherit'] });
  await run({ cwd: top })(process.execPath, ['scripts/build.ts']);
  await mkdir(folder);
  await writeFile(join(folder, 'depends'), debianDepends());
  await writeFile(join(folder, 'recommends'), debianRecommends());
  const modules = join(top, 'node_modules');
  const { stdout: debian } = await execa('dpkg', ['--print-architecture']);
  const brought = join(top, '.cache/toolchain/node_modules');
  const env = {
    ...{ source: top, input: folder, here: folder, modules },
    // It is unpacked under emulation.
    compression: 'none',
    // Where the machine's own Node is new enough, none was brought.
    toolchain: existsSync(brought) ? brought : modules,
    ...{ version: KILN_VERSION, release: '1', debian, node_arch: process.arch },
    SOURCE_DATE_EPOCH: '0',
  };
  const script = 'set -eu; umask 022; . "$source/scripts/packaging/pack.sh"; make_deb';
  await run({ cwd: folder, env })('sh', ['-c', script]);
  await rename(join(folder, `kiln_${KILN_VERSION}-1_${debian}.deb`), target);
  await rm(folder, { recursive: true });
}
