import type { Executed } from '../sandbox/door/planned-sandbox.ts';
import type { BuildBox, BuildCommand } from './box.ts';
import type { BuildRun } from './build-run.ts';
import { commandLine } from './rpmbuild.ts';

/**
 * Runs a command of rpmbuild.ts to its end, with its command line before and its status after what it
 * writes into build.log: mock's words, which tools look for.
 */
export async function runLogged(
  run: BuildRun,
  box: BuildBox,
  argv: readonly string[],
  command: BuildCommand = run.command('build.log'),
): Promise<Executed> {
  run.say(`Executing command: ${commandLine(argv)}`, 'build.log');
  const end = await box.run(argv, command);
  const how = end.signal === null ? String(end.exitCode) : `killed by ${end.signal}`;
  run.say(`Child return code was: ${how}`, 'build.log');
  return end;
}
