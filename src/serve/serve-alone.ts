/** Runs a client's command line in a worker, which has nothing else to do. */
import { basename } from 'node:path';
import { runCommandLine } from '../cli/commands.ts';
import { KILN_FAILED, printError } from '../cli/output/errors.ts';
import type { CommandLine } from '../daemon/command-line.ts';
import { takeCallersUmask } from '../host/process/own-umask.ts';
import { withWaits } from '../host/process/wait-for.ts';
import { endTrace } from '../host/trace/trace.ts';
import type { ClientCaller } from './client-caller.ts';

export async function serveAlone(line: CommandLine, caller: ClientCaller): Promise<void> {
  const { user } = caller;
  const say = (text: string) => caller.stderr.say(text);
  takeCallersUmask(line.start.umask);
  await withWaits({ say }, () => runCommandLine(wordsOf(line), caller));
  try {
    await user?.files?.deliver();
  } catch (error) {
    printError(error, caller.stderr);
    caller.exitStatus ||= KILN_FAILED;
  }
  endTrace(say);
  await caller.finish();
}

/** The words behind `kiln`; those of `kiln-mock` begin with `mock`. */
export function wordsOf({ start: { argv } }: CommandLine): readonly string[] {
  const [program = '', ...words] = argv;
  return basename(program) === 'kiln-mock' ? ['mock', ...words] : words;
}
