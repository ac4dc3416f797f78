import { KilnError } from '../errors.ts';

/**
 * Directories within directories that a tree may have to be copied or merged: each level holds descriptors and
 * stack. Trees of packages have some twenty. Deeper ones can only be removed.
 */
const MAX_TREE_DEPTH = 1000;

/** Throws E_TREE_DEPTH where `depth` is more than {@link MAX_TREE_DEPTH}. */
export function checkTreeDepth(depth: number): void {
  if (depth <= MAX_TREE_DEPTH) return;
  throw new KilnError(
    'E_TREE_DEPTH',
    `a tree has more than ${MAX_TREE_DEPTH} directories within directories`,
    { hint: 'what wrote it is at fault: remove the deep folders in the sandbox that made them' },
  );
}
