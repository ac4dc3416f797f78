import { fileURLToPath } from 'node:url';
import { attempt } from '../../host/calls/libc.ts';
import { hostPath } from '../../jobs/mock/session.ts';
import type { CallerPaths } from '../../users/caller-paths.ts';
import { fetchPath } from '../users/user-guard.ts';
import { type CommandLine, commandLine } from './command-line.ts';
import { INPUTS, MODES } from './user-line.ts';

/** Root's command line, with what it names to be read opened by root's own client. @throws KilnError E_CALLER_FILE */
export async function rootLine(line: CommandLine, paths: CallerPaths): Promise<CommandLine> {
  const given: { name: string; value: string | undefined }[] = [];
  for (const { name, value } of line.given) {
    const kind = INPUTS.get(name);
    if (name === 'addrepo' && value !== undefined) await fetchPath('repository', value, paths);
    const isPath = kind !== undefined && value !== undefined && value !== '';
    given.push({ name, value: isPath ? await fetchPath(kind, hostPath(value), paths) : value });
  }
  const kind = MODES[line.mode];
  const args: string[] = [];
  for (const [index, word] of line.args.entries()) {
    const isLast = index === line.args.length - 1;
    const local = kind === 'files' ? (attempt(() => fileURLToPath(word)) ?? word) : word;
    if (kind === 'copyin' && !isLast) args.push(await fetchPath('tree', hostPath(word), paths));
    else if (isFile(kind, local)) args.push(await paths.file(hostPath(local)));
    else args.push(word);
  }
  return commandLine(line.mode, args, given);
}

/** Not a URL. What is installed may be a file by its path, or a package by its name or by a file that it has. */
function isFile(kind: (typeof MODES)[keyof typeof MODES], word: string): boolean {
  if (/^[a-z]+:\/\//.test(word)) return false;
  return kind === 'files' || (kind === 'packages' && word.endsWith('.rpm'));
}
