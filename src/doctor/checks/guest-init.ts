import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { runTool } from '../../kernel/child-process.ts';
import { packageRoot } from '../../state/package-root.ts';
import { type Check, fail, ok } from '../check.ts';

/** The program that is pid 1 in every box is compiled, and runs without any library. */
export const guestInit: Check = {
  name: 'guest-init',
  async run({ host }) {
    const path = join(packageRoot(), 'dist/kiln-init');
    const file = await stat(path).catch(() => undefined);
    const missing = await host.missing(['build']);
    const names = missing.map((need) => need.package).filter((name) => name !== undefined);
    const compile = `${join(packageRoot(), 'scripts/quickstart')}, or npm run build`;
    const mend =
      names.length === 0 ? compile : `${host.install([...new Set(names)])} && npm run build`;
    if (file === undefined) return fail(`no ${path}`, 'no box can start', mend);
    // The dynamic linker refuses to list what a static program needs: exactly what is wanted here.
    const { failure, stdout } = await runTool('ldd', [path]);
    if (failure === undefined && !/statically linked/.test(stdout)) {
      return fail(`${path} needs libraries`, 'it cannot run on the empty root of a box', mend);
    }
    return ok(`${path}, ${Math.round(file.size / 1024)} KiB`);
  },
};
