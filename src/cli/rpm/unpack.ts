import { resolve } from 'node:path';
import { Command } from 'commander';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { makeDirectory } from '../../host/files/folder.ts';
import { formatEvr } from '../../packages/rpm/dependency.ts';
import { showName } from '../../packages/rpm/filename.ts';
import { type UnpackResult, unpackRpms } from '../../packages/rpm/unpack.ts';
import type { Caller } from '../caller/caller.ts';
import { parseSize } from '../options/values.ts';
import { printError } from '../output/errors.ts';
import { printJson } from '../output/print.ts';
import { collect, errorJson, readKeyrings } from './read-all.ts';

interface UnpackCommandOptions {
  readonly directory: string;
  readonly keyring?: readonly string[];
  readonly maxSize?: number;
  readonly json?: boolean;
}

/** `kiln rpm unpack`. */
export function unpackCommand(caller: Caller): Command {
  return new Command('unpack')
    .description(
      'Write the files of .rpm packages into a directory: verified, with modes, times, links and ' +
        'capabilities, owned by root. No script runs. A confined process reads the packages; ' +
        'it can write only to the directory. Needs root.',
    )
    .argument('<file...>', '.rpm files')
    .option(
      '-C, --directory <dir>',
      'write to this directory; it is made if it does not exist',
      '.',
    )
    .option(
      '--keyring <file>',
      'refuse packages that no key in this file signed (repeatable)',
      collect,
    )
    .option('--max-size <size>', 'refuse packages that unpack to more', parseSize)
    .option('--json', 'print one JSON object per file')
    .addHelpText(
      'after',
      `
Exit status: 0; 1 if a package was refused or damaged. Nothing of such a package is left.

Examples:
  kiln rpm unpack -C /tmp/bash bash-5.2.37-2.x86_64.rpm
  kiln rpm unpack -C root --keyring RPM-GPG-KEY-vendor *.rpm`,
    )
    .action((files: string[], options: UnpackCommandOptions) => unpack(files, options, caller));
}

async function unpack(
  files: readonly string[],
  options: UnpackCommandOptions,
  caller: Caller,
): Promise<void> {
  const keys = readKeyrings(options.keyring ?? []);
  const root = resolve(options.directory);
  try {
    await makeDirectory(root);
  } catch (cause) {
    throw new KilnError('E_ARGUMENT', `cannot unpack into ${root}`, {
      hint: 'name a directory that is there or can be made: -C DIR',
      cause,
    });
  }
  const results = unpackRpms(
    files.map((file) => ({ file, into: '.' })),
    {
      root,
      keys,
      policy: keys.length > 0 ? 'require' : 'allow-unsigned',
      ...defined({ unpackedSize: options.maxSize }),
      // Packages share directories, so they are unpacked one after the other: each can be taken back alone.
      concurrency: 1,
    },
  );
  for await (const result of results) {
    if ('error' in result) caller.exitStatus = 1;
    if (options.json === true) printJson(caller.stdout, toJson(result));
    else print(result, caller);
  }
}

function toJson(result: UnpackResult) {
  if ('error' in result) return errorJson(result.job.file, result.error);
  const { name, epoch, version, release, arch, files, installedSize } = result.package;
  const { warnings } = result;
  const nevra = { name, epoch, version, release, arch };
  return { file: result.job.file, ...nevra, files: files.length, installedSize, warnings };
}

function print(result: UnpackResult, caller: Caller): void {
  if ('error' in result) {
    printError(result.error, caller.stderr);
    return;
  }
  const { name, arch, files } = result.package;
  const nevra = showName(`${name}-${formatEvr(result.package)}.${arch}`);
  caller.stdout.say(`${nevra}: ${files.length} files\n`);
  for (const warning of result.warnings) caller.stderr.say(`kiln: ${nevra}: ${warning}\n`);
}
