/** Signals by name and by number. Programs that use the library load it: nothing native. */
import { constants } from 'node:os';

const signalNumbers: Readonly<Record<string, number>> = constants.signals;

/** @throws TypeError for an unknown name, as Node's own kill() does */
export function signalNumber(signal: NodeJS.Signals | number): number {
  const number = typeof signal === 'number' ? signal : signalNumbers[signal];
  if (number === undefined) throw new TypeError(`unknown signal ${signal}`);
  return number;
}

/** The first of its names: SIGABRT, not SIGIOT. */
export function signalName(number: number): NodeJS.Signals | undefined {
  const found = Object.entries(constants.signals).find(([, known]) => known === number);
  return found?.[0] as NodeJS.Signals | undefined;
}
