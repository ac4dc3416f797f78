import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { counted } from '../../counted.ts';
import { listImages } from '../../image/store/images.ts';
import { fixturesHint } from '../../packages/repository/trust/keys.ts';
import { type Check, ok, warn } from '../check.ts';

const PULL = '`kiln image pull docker://alpine --name alpine` fetches one';

/** Whether the first command has an image: one that is there, or the packages of kiln's own recipes. */
export const images: Check = {
  name: 'images',
  async run({ paths }) {
    const { length } = await listImages(paths);
    if (length > 0) return ok(counted(length, 'image'));
    const packages = join(paths.fixtures, 'debian-rpms/build');
    if (existsSync(packages)) return ok(`none yet; kiln’s recipes are made of ${packages}`);
    return warn(
      `no image, and no packages in ${paths.fixtures}`,
      'kiln’s own recipes for Debian, as debian-build, cannot be made',
      `${fixturesHint(packages) ?? 'see docs/fixtures.md'}; or ${PULL}`,
    );
  },
};
