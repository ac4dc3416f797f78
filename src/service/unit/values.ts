import { constants } from 'node:os';
import type { ExitStatusSet } from './service-unit.ts';
import { plainWords } from './words.ts';

/** A path that may be missing when a dash stands before it. */
export function optionalPath(value: string): { path: string; optional: boolean } {
  return value.startsWith('-')
    ? { path: value.slice(1), optional: true }
    : { path: value, optional: false };
}

/** A capability without its CAP_. */
export function withoutPrefix(capability: string): string {
  return capability.toUpperCase().replace(/^CAP_/, '');
}

/** A signal by its name, with or without SIG, or its number. */
export function signalOf(text: string): NodeJS.Signals | undefined {
  const signals: Readonly<Record<string, number>> = constants.signals;
  const name = /^\d+$/.test(text)
    ? Object.keys(signals).find((key) => signals[key] === Number(text))
    : `SIG${text.toUpperCase().replace(/^SIG/, '')}`;
  return name !== undefined && name in signals ? (name as NodeJS.Signals) : undefined;
}

/** Statuses and signals of SuccessExitStatus= and its kin. */
export function exitStatusSet(values: readonly string[]): ExitStatusSet {
  const words = values.flatMap(plainWords);
  return new Set(
    words.map((word) => (/^\d+$/.test(word) ? Number(word) : (signalOf(word) ?? word))),
  );
}
