import { editDistance } from '../edit-distance.ts';

/**
 * The candidate a person most likely meant by `word`, or undefined when none is near.
 * Near is what differs, without regard to case, in at most a third of the length (see {@link editDistance}).
 */
export function suggest(word: string, candidates: Iterable<string>): string | undefined {
  const wanted = word.toLowerCase();
  let best: string | undefined;
  let limit = Math.max(1, Math.floor(wanted.length / 3));
  for (const candidate of candidates) {
    const distance = editDistance(wanted, candidate.toLowerCase(), limit);
    if (distance <= limit) {
      best = candidate;
      limit = distance - 1;
    }
  }
  return best;
}
