import { Command } from 'commander';
import { formatDependency, formatEvr } from '../../packages/rpm/dependency.ts';
import { showName } from '../../packages/rpm/filename.ts';
import { octalMode, queryJson } from '../../packages/rpm/inspect.ts';
import type { RpmIdentity, RpmPackage, RpmScript } from '../../packages/rpm/package.ts';
import { type ReadResult, readIdentities, readRpms } from '../../packages/rpm/read.ts';
import type { Caller } from '../caller/caller.ts';
import { printError } from '../output/errors.ts';
import { printJson } from '../output/print.ts';
import { printTable } from '../output/table.ts';
import { collect, errorJson, inOrder, readKeyrings } from './read-all.ts';

interface QueryOptions {
  readonly files?: boolean;
  readonly deps?: boolean;
  readonly scripts?: boolean;
  readonly json?: boolean;
  readonly keyring?: readonly string[];
}

/** `kiln rpm query`. */
export function queryCommand(caller: Caller): Command {
  return new Command('query')
    .description('Show what .rpm files contain; kiln reads only their headers.')
    .argument('<file...>', '.rpm files')
    .option('-l, --files', 'list the files of the packages')
    .option('--deps', 'list what the packages require, provide, conflict with and so on')
    .option('--scripts', 'show scriptlets and triggers')
    .option('--keyring <file>', 'check signatures with these OpenPGP keys (repeatable)', collect)
    .option('--json', 'print one JSON object per file, with all fields')
    .addHelpText(
      'after',
      `
Exit status: 0; 1 if a file could not be read.

Examples:
  kiln rpm query *.rpm
  kiln rpm query --files bash-5.2.37-2.x86_64.rpm
  kiln rpm query --json *.rpm | jq -r 'select(.requires[] == "/bin/sh") | .name'`,
    )
    .action((files: string[], options: QueryOptions) => query(files, options, caller));
}

async function query(
  files: readonly string[],
  options: QueryOptions,
  caller: Caller,
): Promise<void> {
  const reading = { keys: readKeyrings(options.keyring ?? []) };
  if (options.json === true) {
    for (const { file, package: rpm, error } of await inOrder(readRpms(files, reading))) {
      if (error !== undefined) caller.exitStatus = 1;
      const json = error === undefined ? queryJson(file, rpm) : errorJson(file, error);
      printJson(caller.stdout, json);
    }
  } else if (options.files || options.deps || options.scripts) {
    const packages = readable(await inOrder(readRpms(files, reading)), caller);
    if (options.files === true) printFiles(packages, caller);
    if (options.deps === true) printDependencies(packages, caller);
    if (options.scripts === true) printScripts(packages, caller);
  } else {
    printPackages(readable(await inOrder(readIdentities(files, reading)), caller), caller);
  }
}

/** The files that could be read; errors of the others are printed. */
function readable<Read>(results: readonly ReadResult<Read>[], caller: Caller): Read[] {
  return results.flatMap(({ package: read, error }) => {
    if (error === undefined) return [read];
    caller.exitStatus = 1;
    printError(error, caller.stderr);
    return [];
  });
}

function printPackages(packages: readonly RpmIdentity[], caller: Caller): void {
  if (packages.length === 0) return;
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
  if (packages.length === 0) return;
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
  if (packages.length === 0) return;
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
