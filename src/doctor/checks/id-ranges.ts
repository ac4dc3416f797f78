import { readFile } from 'node:fs/promises';
import { KilnError } from '../../errors.ts';
import { idBlock, RANGE_SIZE } from '../../sandbox/domain/id-range.ts';
import { type Check, fail, ok, reason, warn } from '../check.ts';

interface Block {
  readonly start: number;
  readonly count: number;
}

/** Checks that the ids of sandboxes belong to nobody else on this host. */
export const idRanges: Check = {
  name: 'id-ranges',
  async run() {
    let block: Block;
    try {
      block = await idBlock();
    } catch (error) {
      const hint = error instanceof KilnError ? error.hint : undefined;
      return fail(reason(error), 'sandboxes have no ids', hint ?? 'mend /etc/subuid');
    }
    const last = block.start + block.count - 1;
    const found = `${block.start} to ${last}, room for ${Math.floor(block.count / RANGE_SIZE) - 1} sandboxes`;
    const accounts = [
      ...(await accountsIn('/etc/passwd', block)),
      ...(await accountsIn('/etc/group', block)),
    ];
    if (accounts.length > 0) {
      return fail(
        found,
        `these ids belong to ${accounts.slice(0, 3).join(', ')}: a sandbox could act as them`,
        'give kiln a block of its own: echo kiln:START:COUNT >> /etc/subuid (and /etc/subgid)',
      );
    }
    const others = [
      ...(await delegationsIn('/etc/subuid', block)),
      ...(await delegationsIn('/etc/subgid', block)),
    ];
    if (others.length > 0) {
      return warn(
        found,
        `${others.slice(0, 3).join(', ')} may use ids of this block as well`,
        'give one of the two a block of its own in /etc/subuid and /etc/subgid',
      );
    }
    return ok(found);
  },
};

/** The accounts or groups in a passwd(5) or group(5) file with an id in the block. */
async function accountsIn(file: string, block: Block): Promise<string[]> {
  const lines = await linesOf(file);
  return lines
    .filter((fields) => inside(Number(fields[2]), block))
    .map(([name]) => `${name} (${file})`);
}

/** Names other than kiln in a subuid(5) file whose range overlaps the block. */
async function delegationsIn(file: string, block: Block): Promise<string[]> {
  const lines = await linesOf(file);
  return lines
    .filter(([name, start, count]) => {
      const first = Number(start);
      const meets = first < block.start + block.count && first + Number(count) > block.start;
      return name !== 'kiln' && meets;
    })
    .map(([name]) => `${name} (${file})`);
}

function inside(id: number, block: Block): boolean {
  return id >= block.start && id < block.start + block.count;
}

async function linesOf(file: string): Promise<string[][]> {
  const text = await readFile(file, 'utf8').catch(() => '');
  return text
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
    .map((line) => line.split(':'));
}
