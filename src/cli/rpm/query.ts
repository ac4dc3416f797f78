import { KilnError } from '../../errors.ts';
import type { HeldPath } from '../../host/files/held.ts';
import { readUserFile } from '../../host/files/user-file.ts';
import { flag } from '../../options/kind.ts';
import { opened } from '../../options/places.ts';
import { row, type ValuesOf } from '../../options/row.ts';
import { path, ROOTS } from '../../options/rules.ts';
import { formatDependency, formatEvr } from '../../packages/rpm/dependency.ts';
import { showName } from '../../packages/rpm/filename.ts';
import { octalMode, queryJson } from '../../packages/rpm/inspect.ts';
import type { RpmIdentity, RpmPackage, RpmScript } from '../../packages/rpm/package.ts';
import { type ReadResult, readIdentities, readRpms } from '../../packages/rpm/read.ts';
import { ARMORED_KEY } from '../../packages/rpm/signature/keyring.ts';
import type { Caller } from '../caller/caller.ts';
import { KilnCommand } from '../options/command.ts';
import { exitStatusHelp } from '../options/exit-statuses.ts';
import { printError } from '../output/errors.ts';
import { printJson } from '../output/print.ts';
import { printTable } from '../output/table.ts';

const keys = opened<HeldPath>('file', path('content'));

/** @param use what becomes of the keys in it */
export function keyring(use: string) {
  return row(keys, ROOTS, { help: use, many: true });
}

export const JSON_OF_FILES = row(flag, ROOTS, { help: 'print one JSON object per file' });

const QUERY = {
  files: row(flag, ROOTS, { help: 'list the files of the packages', short: 'l' }),
  deps: row(flag, ROOTS, {
    help: 'list what the packages require, provide, conflict with and so on',
  }),
  scripts: row(flag, ROOTS, { help: 'show scriptlets and triggers' }),
  keyring: keyring('check signatures with these OpenPGP keys (repeatable)'),
  json: row(flag, ROOTS, { help: 'print one JSON object per file, with all fields' }),
};

export function queryCommand(caller: Caller): KilnCommand {
  return new KilnCommand('query')
    .description('Show what .rpm files contain; kiln reads only their headers.')
    .argument('<file...>', '.rpm files')
    .rows(QUERY)
    .addHelpText(
      'after',
      `${exitStatusHelp('kiln rpm query')}
Examples:
  kiln rpm query *.rpm
  kiln rpm query --files bash-5.2.37-2.x86_64.rpm
  kiln rpm query --json *.rpm | jq -r 'select(.requires[] == "/bin/sh") | .name'`,
    )
    .action(async (files: string[], options: ValuesOf<typeof QUERY>) => {
      const reading = { keys: readKeyrings(options.keyring) };
      if (options.json === true) {
        for (const { file, package: rpm, error } of await inOrder(readRpms(files, reading))) {
          if (error !== undefined) caller.exitStatus = 1;
          const json = error === undefined ? queryJson(file, rpm) : errorJson(file, error);
          printJson(caller.stdout, json);
        }
      } else if (options.files || options.deps || options.scripts) {
        const packages = readable(await inOrder(readRpms(files, reading)), caller);
        if (packages.length === 0) return;
        if (options.files === true) printFiles(packages, caller);
        if (options.deps === true) printDependencies(packages, caller);
        if (options.scripts === true) printScripts(packages, caller);
      } else {
        const packages = readable(await inOrder(readIdentities(files, reading)), caller);
        if (packages.length > 0) printPackages(packages, caller);
      }
    });
}

function readable<Read>(results: readonly ReadResult<Read>[], caller: Caller): Read[] {
  return results.flatMap(({ package: read, error }) => {
    if (error === undefined) return [read];
    caller.exitStatus = 1;
    printError(error, caller.stderr);
    return [];
  });
}

function printPackages(packages: readonly RpmIdentity[], caller: Caller): void {
  printTable(
    caller.stdout,
    ['NAME', 'VERSION', 'ARCH', 'INSTALLED', 'PAYLOAD', 'SIGNATURE', 'SUMMARY'],
    packages.map((rpm) => [
      showName(rpm.name),
      showName(formatEvr(rpm)),
      showName(rpm.arch),
      formatSize(rpm.installedSize),
      rpm.payload.compressor,
      rpm.signatures.map(({ keyId, status }) => `${keyId} ${status}`).join(', ') || 'none',
      showName(rpm.summary),
    ]),
  );
}

function printFiles(packages: readonly RpmPackage[], caller: Caller): void {
  printTable(
    caller.stdout,
    ['TYPE', 'MODE', 'OWNER', 'GROUP', 'SIZE', 'FLAGS', 'CAPABILITIES', 'PATH'],
    packages.flatMap(({ files }) =>
      files.map((file) => [
        file.type,
        octalMode(file.mode),
        showName(file.owner),
        showName(file.group),
        String(file.size),
        file.flags.join(','),
        file.caps ?? '',
        showName(file.path) + (file.linkTarget === null ? '' : ` -> ${showName(file.linkTarget)}`),
      ]),
    ),
  );
}

function printDependencies(packages: readonly RpmPackage[], caller: Caller): void {
  printTable(
    caller.stdout,
    ['PACKAGE', 'KIND', 'CAPABILITY'],
    packages.flatMap(({ name, dependencies }) =>
      Object.entries(dependencies).flatMap(([kind, list]) =>
        list.map((dependency) => [showName(name), kind, showName(formatDependency(dependency))]),
      ),
    ),
  );
}

function printScripts(packages: readonly RpmPackage[], caller: Caller): void {
  const print = (rpm: RpmPackage, title: string, script: RpmScript) => {
    const program = script.interpreter.map(showName).join(' ');
    caller.stdout.say(`# ${showName(rpm.name)} ${title} (${program})\n`);
    const lines = script.body.split('\n').map(showName);
    caller.stdout.say(`${lines.join('\n')}\n\n`);
  };
  for (const rpm of packages) {
    for (const scriptlet of rpm.scriptlets) print(rpm, scriptlet.kind, scriptlet);
    for (const trigger of rpm.triggers) {
      const on = trigger.conditions.map(formatDependency).map(showName).join(', ');
      print(rpm, `${trigger.kind} -- ${on}`, trigger);
    }
    for (const trigger of rpm.fileTriggers) {
      const kind = trigger.scope === 'transaction' ? `trans${trigger.kind}` : trigger.kind;
      print(rpm, `${kind} -- ${trigger.prefixes.map(showName).join(' ')}`, trigger);
    }
  }
}

function formatSize(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const power = bytes < 1 ? 0 : Math.min(Math.floor(Math.log2(bytes) / 10), units.length - 1);
  return `${(bytes / 1024 ** power).toFixed(power === 0 ? 0 : 1)} ${units[power]}`;
}

/** The most bytes of a file with keys: those of a whole distribution are smaller. */
const MAX_KEYRING = 16 * 2 ** 20;

export async function inOrder<Read>(
  reading: AsyncIterable<ReadResult<Read>>,
): Promise<ReadResult<Read>[]> {
  const results: ReadResult<Read>[] = [];
  for await (const result of reading) results[result.index] = result;
  return results;
}

export function readKeyrings(files: readonly string[]): string[] {
  return files.map((file) => {
    const hint = `--keyring names a file with armored OpenPGP keys: it begins with ${ARMORED_KEY}`;
    let text: string;
    try {
      text = readUserFile(file, MAX_KEYRING, 'anything').toString('utf8');
    } catch (cause) {
      throw new KilnError('E_KEYRING', `the keyring ${file} cannot be read`, { hint, cause });
    }
    if (text.includes(ARMORED_KEY)) return text;
    throw new KilnError('E_KEYRING', `the keyring ${file} holds no armored public key`, { hint });
  });
}

export function errorJson(file: string, error: KilnError) {
  return { file, error: { code: error.code, message: error.message, hint: error.hint ?? null } };
}
