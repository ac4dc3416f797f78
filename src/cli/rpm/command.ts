import { counted } from '../../counted.ts';
import { defined } from '../../defined.ts';
import { size } from '../../options/numbers.ts';
import { opened } from '../../options/places.ts';
import { row, type ValuesOf } from '../../options/row.ts';
import { path, ROOTS } from '../../options/rules.ts';
import { formatEvr } from '../../packages/rpm/dependency.ts';
import { digestFaults } from '../../packages/rpm/digests.ts';
import { showName } from '../../packages/rpm/filename.ts';
import type { RpmPackage, RpmSignature } from '../../packages/rpm/package.ts';
import { type ReadResult, readRpms } from '../../packages/rpm/read.ts';
import { signatureVerdict } from '../../packages/rpm/signature/package-signatures.ts';
import { type UnpackResult, unpackRpms } from '../../packages/rpm/unpack.ts';
import type { Caller } from '../caller/caller.ts';
import { KilnCommand } from '../options/command.ts';
import { exitStatusHelp } from '../options/exit-statuses.ts';
import { printError, printWarning } from '../output/errors.ts';
import { printJson } from '../output/print.ts';
import { printTable } from '../output/table.ts';
import { errorJson, inOrder, JSON_OF_FILES, keyring, queryCommand, readKeyrings } from './query.ts';

export function command(caller: Caller): KilnCommand {
  return new KilnCommand('rpm')
    .description('Query, verify and unpack .rpm files in a confined process, without rpm.')
    .addHelpText(
      'after',
      `
Examples:
  kiln rpm query bash-5.2.37-2.x86_64.rpm
  kiln rpm verify --keyring RPM-GPG-KEY-vendor *.rpm
  kiln rpm unpack -C root *.rpm`,
    )
    .addCommand(queryCommand(caller))
    .addCommand(verifyCommand(caller))
    .addCommand(unpackCommand(caller));
}

const UNPACK = {
  directory: row(opened<string>('dir', path('results')), ROOTS, {
    help: 'write to this folder; it is made if it does not exist',
    short: 'C',
    usual: '.',
  }),
  keyring: keyring('refuse packages that no key in this file signed (repeatable)'),
  maxSize: row(size, ROOTS, { help: 'refuse packages that unpack to more' }),
  json: JSON_OF_FILES,
};

function unpackCommand(caller: Caller): KilnCommand {
  return new KilnCommand('unpack')
    .description(
      'Write the files of .rpm packages into a folder: verified, with modes, times, links and ' +
        'capabilities, owned by root. No script runs. A confined process reads the packages; ' +
        'it can write only to the folder. Needs root.',
    )
    .argument('<file...>', '.rpm files')
    .rows(UNPACK)
    .addHelpText(
      'after',
      `${exitStatusHelp('kiln rpm unpack')}
Examples:
  kiln rpm unpack -C /tmp/bash bash-5.2.37-2.x86_64.rpm
  kiln rpm unpack -C root --keyring RPM-GPG-KEY-vendor *.rpm`,
    )
    .action(async (files: string[], options: ValuesOf<typeof UNPACK>) => {
      const keys = readKeyrings(options.keyring);
      const root = await caller.paths.results(options.directory);
      const results = unpackRpms(
        files.map((file) => ({ file, into: '.' })),
        {
          root,
          keys,
          policy: keys.length > 0 ? 'require' : 'allow-unsigned',
          ...defined({ unpackedSize: options.maxSize }),
          moreBy: '--max-size allows more',
          // Packages share directories, so they are unpacked one after the other: each can be taken back alone.
          concurrency: 1,
        },
      );
      for await (const result of results) {
        if ('error' in result) caller.exitStatus = 1;
        if (options.json === true) printJson(caller.stdout, unpackJson(result));
        else print(result, caller);
      }
    });
}

function unpackJson(result: UnpackResult) {
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
  caller.stdout.say(`${nevra}: ${counted(files.length, 'file')}\n`);
  for (const warning of result.warnings)
    printWarning({ code: 'special-file', message: `${nevra}: ${warning}` }, caller.stderr);
}

/** The exit status for each verdict; several files give the highest. */
const STATUS = { trusted: 0, untrusted: 1, broken: 2 } as const;

interface Judged {
  readonly result: ReadResult;
  readonly verdict: keyof typeof STATUS;
  readonly faults: readonly string[];
}

const VERIFY = {
  keyring: keyring('trust the armored OpenPGP public keys in this file (repeatable)'),
  json: JSON_OF_FILES,
};

function verifyCommand(caller: Caller): KilnCommand {
  return new KilnCommand('verify')
    .description('Check every digest and signature of .rpm files, payload included.')
    .argument('<file...>', '.rpm files')
    .rows(VERIFY)
    .addHelpText(
      'after',
      `${exitStatusHelp('kiln rpm verify')}
Examples:
  kiln rpm verify --keyring /etc/pki/rpm-gpg/RPM-GPG-KEY-fedora-42-x86_64 *.rpm
  kiln rpm verify --json *.rpm | jq -r 'select(.verdict == "broken") | .file'`,
    )
    .action(async (files: string[], options: ValuesOf<typeof VERIFY>) => {
      const keys = readKeyrings(options.keyring);
      const judged = (await inOrder(readRpms(files, { keys, depth: 'all' }))).map(judge);
      caller.exitStatus = Math.max(...judged.map(({ verdict }) => STATUS[verdict]));
      if (options.json === true) {
        for (const one of judged) printJson(caller.stdout, verdictJson(one));
        return;
      }
      printTable(
        caller.stdout,
        ['FILE', 'VERDICT', 'DIGESTS', 'SIGNATURES'],
        judged.map(({ result, verdict }) => [
          showName(result.file),
          verdict,
          result.package === undefined ? '' : digestSummary(result.package),
          result.package?.signatures.map(signatureSummary).join('; ') || 'none',
        ]),
      );
      for (const { result, faults } of judged) {
        if (result.error !== undefined) printError(result.error, caller.stderr);
        for (const fault of faults) caller.stderr.say(`kiln: ${showName(result.file)}: ${fault}\n`);
      }
    });
}

function judge(result: ReadResult): Judged {
  if (result.error !== undefined) return { result, verdict: 'broken', faults: [] };
  const faults = digestFaults(result.package.digests);
  for (const { status, keyId, reason } of result.package.signatures) {
    if (status === 'bad') faults.push(`its signature by key ${keyId} is wrong: ${reason}`);
  }
  const verdict = faults.length > 0 ? 'broken' : signatureVerdict(result.package.signatures);
  return { result, verdict, faults };
}

function verdictJson({ result, verdict, faults }: Judged) {
  if (result.error !== undefined) return { ...errorJson(result.file, result.error), verdict };
  const { name, epoch, version, release, arch, digests, signatures } = result.package;
  const nevra = { name, epoch, version, release, arch };
  return { file: result.file, verdict, faults, ...nevra, digests, signatures };
}

function digestSummary({ digests }: RpmPackage): string {
  const checked = digests.filter(({ status }) => status !== 'unchecked');
  const good = checked.filter(({ status }) => status === 'ok');
  return `${good.length} of ${checked.length} ok`;
}

function signatureSummary({ keyId, algorithm, status, signer }: RpmSignature): string {
  return `${algorithm} ${keyId} ${status}${signer === null ? '' : ` (${showName(signer)})`}`;
}
