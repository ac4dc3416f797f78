import type { Executed } from '../../sandbox/door/io.ts';
import type { BuildRun } from './build-run.ts';
import type { BuildCommand, BuildSandbox } from './build-sandbox.ts';
import { commandLine } from './rpmbuild.ts';

/**
 * Runs a command of rpmbuild.ts to its end, with its command line before and its status after what it
 * writes into build.log: mock's words, which tools look for.
 */
export async function runLogged(
  run: BuildRun,
  sandbox: BuildSandbox,
  argv: readonly string[],
  command: BuildCommand = run.command('build.log'),
): Promise<Executed> {
  run.say(`Executing command: ${commandLine(argv)}`, 'build.log');
  const end = await sandbox.run(argv, command);
  const how = end.signal === null ? String(end.exitCode) : `killed by ${end.signal}`;
  run.say(`Child return code was: ${how}`, 'build.log');
  return end;
}
