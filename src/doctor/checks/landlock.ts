import { landlockAbi } from '../../kernel/process.ts';
import { FIRST_ABI } from '../../sandbox/landlock.ts';
import { allowedMissing } from '../../sandbox/layers.ts';
import { type Check, type Finding, fail, ok, warn } from '../check.ts';

/** The kernel that brought the ABI behind a wall (landlock(7), VERSIONS). */
const SINCE = { files: 'Linux 5.13', 'no-tcp': 'Linux 6.7', 'abstract-sockets': 'Linux 6.12' };

/** What is refused, unless Landlock may be missing, where the kernel's ABI is too old for a wall. */
const NEEDED_BY = { 'no-tcp': '--seccomp strict', 'abstract-sockets': '--network host' } as const;

/** Landlock, and which of the walls kiln makes of it this kernel has. */
export const landlock: Check = {
  name: 'landlock',
  async run({ env }) {
    return landlockFinding(landlockAbi(), allowedMissing(env).includes('landlock'));
  },
};

/**
 * What an ABI means for kiln; 0 is none at all.
 * @param allowed KILN_ALLOW_MISSING names landlock: nothing is refused for want of it
 */
export function landlockFinding(abi: number, allowed: boolean): Finding {
  if (abi < FIRST_ABI.files) {
    const lost =
      'a wall is missing: files of the host’s that leaked into a box could be opened, and SYS_PTRACE could reach its init';
    return (allowed ? warn : fail)(
      'the kernel has no Landlock',
      allowed ? lost : `commands are refused, for ${lost}`,
      `boot with landlock in lsm= (cat /sys/kernel/security/lsm shows the others), on ${SINCE.files} or newer with CONFIG_SECURITY_LANDLOCK; or do without: KILN_ALLOW_MISSING=landlock`,
    );
  }
  const found = `Landlock, ABI ${abi}`;
  const lost = (['no-tcp', 'abstract-sockets'] as const).filter((wall) => abi < FIRST_ABI[wall]);
  const last = lost.at(-1);
  if (last === undefined) return ok(`${found}: files, TCP, abstract sockets`);
  const uses = lost.map((wall) => NEEDED_BY[wall]).join(', no ');
  return warn(
    found,
    allowed
      ? `no wall for ${uses} (${lost.join(', ')})`
      : `no ${uses}: refused for want of ${lost.join(', ')}`,
    `use ${SINCE[last]} or newer; or do without: KILN_ALLOW_MISSING=landlock`,
  );
}
