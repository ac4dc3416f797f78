import { dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { attempt } from '../../host/calls/libc.ts';
import { hostPath } from '../../jobs/mock/session.ts';
import type { CallerPaths } from '../../users/caller-paths.ts';
import { fetchPath, OUTPUTS } from '../users/user-guard.ts';
import { type CommandLine, commandLine } from './command-line.ts';
import { MODES, type ModeRow } from './modes.ts';
import { OPTIONS } from './option-table.ts';

/** Root's command line, with what it names to be read opened by root's own client. @throws KilnError E_CALLER_FILE */
export async function rootLine(line: CommandLine, paths: CallerPaths): Promise<CommandLine> {
  const given: { name: string; value: string | undefined }[] = [];
  for (const { name, value } of line.given) {
    given.push({ name, value: value && (await openedValue(name, value, paths)) });
  }
  const { takes: kind } = MODES[line.mode];
  const args: string[] = [];
  for (const [index, word] of line.args.entries()) {
    const isLast = index === line.args.length - 1;
    const local = kind === 'files' ? (attempt(() => fileURLToPath(word)) ?? word) : word;
    if (kind === 'hermetic') args.push(await hermeticWord(index, word, paths));
    else if (kind === 'copyin' && !isLast)
      args.push(await fetchPath('tree', hostPath(word), paths));
    else if (isFile(kind, local)) args.push(await paths.file(hostPath(local)));
    else args.push(word);
  }
  return commandLine(line.mode, args, given);
}

async function openedValue(name: string, value: string, paths: CallerPaths): Promise<string> {
  const kind = OPTIONS.get(name)?.opens;
  if (kind !== undefined && !OUTPUTS.includes(kind))
    return await fetchPath(kind, hostPath(value), paths);
  if (name === 'addrepo') await fetchPath('repository', value, paths);
  // A configuration keeps its name: it is evaluated by it, and includes files beside it.
  if (name === 'configdir') {
    await paths.holdName(value);
    return resolve(value);
  }
  if (name === 'root' && value.endsWith('.cfg')) {
    await paths.holdName(value, 'text');
    await paths.holdName(dirname(value));
  }
  return value;
}

/** A lock, a folder of packages, which keeps its name, and a source package. */
async function hermeticWord(index: number, word: string, paths: CallerPaths): Promise<string> {
  const path = hostPath(word);
  if (index === 0) return await fetchPath('text', path, paths);
  if (index > 1) return /^[a-z]+:\/\//.test(word) ? word : await paths.file(path);
  await fetchPath('repository', path, paths);
  return path;
}

/** Not a URL. What is installed may be a file by its path, or a package by its name or by a file that it has. */
function isFile(kind: ModeRow['takes'], word: string): boolean {
  if (/^[a-z]+:\/\//.test(word)) return false;
  return kind === 'files' || (kind === 'packages' && word.endsWith('.rpm'));
}
