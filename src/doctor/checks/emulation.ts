import {
  ARCHITECTURES,
  emulatorsOf,
  hostArchitecture,
  REPLACE,
  runsItself,
} from '../../host/process/architecture.ts';
import { type Check, ok, warn } from '../check.ts';

/** Whose images run here: `kiln image build --arch`. That there is no emulator is no fault. */
export const emulation: Check = {
  name: 'emulation',
  async run() {
    const others = ARCHITECTURES.filter((arch) => !runsItself(arch));
    const known = others.filter((arch) => emulatorsOf(arch).length > 0);
    for (const arch of known) {
      const outside = emulatorsOf(arch).find(({ isHeld }) => !isHeld);
      if (outside === undefined) continue;
      const { entry, interpreter } = outside;
      return warn(
        `the emulator ${entry} is registered without the flag F`,
        `images for ${arch} are refused: no sandbox has ${interpreter}`,
        REPLACE,
      );
    }
    const own = hostArchitecture();
    return known.length === 0
      ? ok(`images for ${own} only: no emulator of another architecture is registered`)
      : ok(`images for ${own}, and through an emulator for ${known.join(', ')}`);
  },
};
