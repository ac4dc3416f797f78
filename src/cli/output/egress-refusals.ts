import { type EgressEntry, parseEgressRule } from '../../egress/rule.ts';
import type { TextOutput } from '../caller/caller.ts';

/** The most lines: a command can ask for any number of hosts. */
const MAX_LINES = 10;

/**
 * Prints what the proxy refused to a sandbox, with the option that allows it. The entries have printable ASCII
 * only: see egress/open.ts.
 */
export function printEgressRefusals(entries: readonly EgressEntry[], to: TextOutput): void {
  for (const line of egressRefusals(entries)) to.say(`kiln: ${line}\n`);
}

/** One line for each host and port, at most {@link MAX_LINES} and one that counts the rest. */
export function egressRefusals(entries: readonly EgressEntry[]): string[] {
  const lines = new Set<string>();
  for (const { host, port, refused } of entries) {
    if (refused === undefined) continue;
    const place = port === 0 ? host : `${host}:${port}`;
    lines.add(`egress refused: ${place}: ${refused}${permission(place, refused)}`);
  }
  const all = [...lines];
  if (all.length <= MAX_LINES) return all;
  const more = all.length - MAX_LINES;
  return [...all.slice(0, MAX_LINES), `egress refused: ${more} more; result.json names them`];
}

/** The option that would have allowed it, if there is one. */
function permission(place: string, refused: string): string {
  if (parseEgressRule(place) === undefined) return '';
  if (refused === 'not on the list') return ` (--egress ${place} allows it)`;
  if (refused.startsWith('its address is not public')) {
    return ' (--egress with its address, beside its name, allows it)';
  }
  return '';
}
