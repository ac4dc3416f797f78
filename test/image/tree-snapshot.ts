import { createHash } from 'node:crypto';
import {
  closeSync,
  constants,
  lstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
} from 'node:fs';
import { getXattr } from '../../src/host/calls/descriptor.ts';

/**
 * Every path of a tree with type, mode, owner, size, digest, link target and capabilities, as one
 * line each. Names are latin1, so that every byte string has a line of its own.
 */
export function snapshotTree(root: string): Map<string, string> {
  const lines = new Map<string, string>();
  const visit = (directory: Buffer, inside: string) => {
    for (const name of readdirSync(directory, { encoding: 'buffer' })) {
      const path = Buffer.concat([directory, Buffer.from('/'), name]);
      const key = `${inside}/${name.toString('latin1')}`;
      const stat = lstatSync(path);
      const parts = [stat.mode.toString(8), `${stat.uid}:${stat.gid}`];
      if (stat.isFile()) {
        const content = key === '/etc/shadow' ? undated(readFileSync(path)) : readFileSync(path);
        const digest = createHash('sha256').update(content).digest('hex');
        parts.push(String(stat.size), digest, capabilities(path));
      }
      if (stat.isSymbolicLink()) parts.push(readlinkSync(path));
      lines.set(key, parts.join(' '));
      if (stat.isDirectory()) visit(path, key);
    }
  };
  visit(Buffer.from(root), '');
  return lines;
}

/** shadow(5) holds the day of the last change: two trees made before and after midnight differ in nothing else. */
function undated(shadow: Buffer): string {
  return shadow.toString('latin1').replace(/^([^:\n]*:[^:\n]*):\d+:/gm, '$1:DAY:');
}

function capabilities(path: Buffer): string {
  const fd = openSync(path, constants.O_RDONLY);
  try {
    return getXattr(fd, 'security.capability')?.toString('hex') ?? '';
  } finally {
    closeSync(fd);
  }
}

/** Where two trees differ: `path: theirs | ours`. */
export function differences(
  theirs: ReadonlyMap<string, string>,
  ours: ReadonlyMap<string, string>,
): Map<string, string> {
  const found = new Map<string, string>();
  for (const path of [...new Set([...theirs.keys(), ...ours.keys()])].sort()) {
    const [a, b] = [theirs.get(path), ours.get(path)];
    if (a !== b) found.set(path, `${a ?? 'missing'} | ${b ?? 'missing'}`);
  }
  return found;
}
