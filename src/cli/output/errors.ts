import { statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { CommanderError } from 'commander';
import type { Warning } from '../../artifacts/warning.ts';
import { allowingOption, type EgressEntry, placeOf } from '../../egress/rule.ts';
import { EXIT_STATUS } from '../../error-codes.ts';
import { KilnError } from '../../errors.ts';
import { currentAction } from '../../events/action.ts';
import { attempt } from '../../host/calls/libc.ts';
import { DISK_FULL, knownFailure, reasonLines } from '../../host/calls/system-error.ts';
import { signalNumber } from '../../host/process/signals.ts';
import { damageText, onDamage } from '../../host/state/damage.ts';
import { statePaths } from '../../host/state/paths.ts';
import type { CommandEnd, TimeLimits } from '../../sandbox/door/supervise.ts';
import type { Caller } from '../caller/caller.ts';
import type { TextOutput } from './print.ts';
import { plainText } from './print.ts';

const MAX_CAUSES = 8;

/** @param status see {@link noteFailure} */
export function printError(error: unknown, to: TextOutput, status?: number): void {
  noteFailure(error, status);
  to.say(describeError(error));
}

/**
 * The event of the command's end has it, if it ends with this failure's status.
 *
 * @param status where the command ends with another because of it, as builds do with rpmbuild's
 */
export function noteFailure(error: unknown, status?: number): void {
  const known = error instanceof CommanderError ? undefined : knownFailure(error);
  if (known !== undefined) currentAction()?.failed(known, status ?? exitStatus(known));
}

export function printWarning(warning: Warning, to: TextOutput): void {
  to.say(describeWarning(warning));
}

/** A line, which ends with the code: docs/warnings.md explains it. */
export function describeWarning({ code, message }: Warning): string {
  return plainText(`kiln: warning: ${message} [${code}]\n`);
}

/** The first line ends with the code, as a warning's does: docs/errors.md explains it. */
export function describeError(error: unknown): string {
  const known = knownFailure(error);
  if (known === undefined) {
    return plainText(`kiln: internal error: ${error instanceof Error ? error.stack : error}\n`);
  }
  const place = fullPlace(known);
  if (place !== undefined) {
    const hint = place.startsWith('/run/') ? 'make room there: it lies in memory' : known.hint;
    const what = `no space is left on the file system of ${place} [${known.code}]`;
    return plainText(`kiln: ${what}\n  hint: ${hint}\n`);
  }
  const [first, ...more] = known.message.split('\n');
  let text = [`kiln: ${first} [${known.code}]`, ...more, ''].join('\n');
  for (const reason of reasonsOf(error, known)) {
    if (!text.includes(reason)) text += `  because: ${reason}\n`;
  }
  if (known.hint !== undefined) text += `  hint: ${known.hint}\n`;
  return plainText(text);
}

export function reasonsOf(error: unknown, known: KilnError): string[] {
  // For a failure of the system, the message has the cause already.
  return known === error ? reasonLines(known.cause, MAX_CAUSES) : [];
}

/** The full file system of kiln's, because the kernel names no file for a failed write. */
function fullPlace({ code, details }: KilnError): string | undefined {
  if (code !== DISK_FULL || details?.call !== 'write' || details.path !== undefined)
    return undefined;
  const { root, hostRun } = statePaths(process.env);
  const isFull = (path: string) => attempt(() => statfsSync(path))?.bavail === 0;
  return [root, hostRun, tmpdir()].find(isFull);
}

/** The status of kiln's own failures, as with podman and docker. */
export const KILN_FAILED = 125;
/** As with timeout(1). */
const TIMED_OUT = 124;
/** As in a shell. */
const SIGNALLED = 128;

export function exitStatus(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : KILN_FAILED;
  if (!(error instanceof KilnError)) return KILN_FAILED;
  return EXIT_STATUS[error.code] ?? KILN_FAILED;
}

export function commandStatus(end: CommandEnd): number {
  if (end.timeLimit !== null) return TIMED_OUT;
  if (end.signal !== null) return SIGNALLED + signalNumber(end.signal);
  return end.exitCode ?? KILN_FAILED;
}

/** @param limit one that a command has hit, as the API says it too @param isGiven whether the caller gave an option */
export function limitText(
  limit: string,
  { timeout = 0, stallTimeout = 0 }: TimeLimits,
  isGiven: (name: string) => boolean = () => true,
): string | undefined {
  const from = (name: string, flag: string) =>
    isGiven(name) ? `--${flag}` : `${flag} of kiln.yaml: \`kiln config show\` tells which`;
  const texts: Readonly<Record<string, string>> = {
    timeout: `the command was ended after ${timeout / 1000} s: the time limit was reached (${from('timeout', 'timeout')})`,
    stall: `the command was ended: it wrote nothing for ${stallTimeout / 1000} s (${from('stallTimeout', 'stall-timeout')})`,
    memory: 'the kernel killed a process: the memory limit was reached (--memory)',
    pids: 'the command could not start a process: the limit was reached (--pids)',
    disk: 'a file system of the sandbox is full: the disk limit was reached (--disk)',
  };
  return texts[limit];
}

/** Reports damaged files to `say` until disposed of; not if `--json` reserves stderr for JSON. */
export function tellingDamage(argv: readonly string[], say: (text: string) => void): Disposable {
  const words = argv.includes('--') ? argv.slice(0, argv.indexOf('--')) : argv;
  const quiet = words.includes('--json');
  return onDamage((damage) => {
    if (!quiet) say(describeWarning({ code: 'damaged', message: damageText(damage) }));
  });
}

/** What an archive of a tree cannot have. */
export function printSkipped(skipped: readonly string[], caller: Caller): void {
  for (const path of skipped) {
    const why = /(^|\/)\.wh\.[^/]*$/.test(path)
      ? 'has the name of a whiteout'
      : 'is a device or a socket';
    const message = `/${path} ${why}: left out`;
    printWarning({ code: 'special-file', message }, caller.stderr);
  }
}

/** The most lines: a command can ask for any number of hosts. */
const MAX_LINES = 10;

/**
 * Prints what the proxy refused to a sandbox, once for each host and port, with the option that allows it. The
 * entries have printable ASCII only: see egress/open.ts.
 */
export function printEgressRefusals(
  entries: readonly EgressEntry[],
  to: { say(text: string): void },
): void {
  const lines = new Set<string>();
  for (const entry of entries) {
    if (entry.refused === undefined) continue;
    const option = allowingOption(entry);
    const permission = option === undefined ? '' : ` (${option} allows it)`;
    lines.add(`${placeOf(entry)}: ${entry.refused}${permission}`);
  }
  const shown = [...lines].slice(0, MAX_LINES);
  if (lines.size > MAX_LINES) shown.push(`${lines.size - MAX_LINES} more; result.json names them`);
  for (const line of shown) to.say(`kiln: egress refused: ${line}\n`);
}

type Act = (name: string, caller: Caller) => Promise<void>;

/** Runs for all at once, and throws the first failure at the end: one failure does not stop the others. */
export async function forEach(names: readonly string[], act: Act, caller: Caller): Promise<void> {
  report(await Promise.allSettled(names.map((name) => act(name, caller))), caller);
}

export async function inTurn(names: readonly string[], act: Act, caller: Caller): Promise<void> {
  const results: PromiseSettledResult<void>[] = [];
  for (const name of names) results.push(...(await Promise.allSettled([act(name, caller)])));
  report(results, caller);
}

function report(results: readonly PromiseSettledResult<void>[], caller: Caller): void {
  const failures = results.filter((result) => result.status === 'rejected');
  for (const { reason } of failures.slice(1)) printError(reason, caller.stderr);
  if (failures[0] !== undefined) throw failures[0].reason;
}
