import { Command } from 'commander';
import { digestFaults } from '../../packages/rpm/digests.ts';
import { showName } from '../../packages/rpm/filename.ts';
import type { RpmPackage, RpmSignature } from '../../packages/rpm/package.ts';
import { type ReadResult, readRpms } from '../../packages/rpm/read.ts';
import { signatureVerdict } from '../../packages/rpm/signature/signature-packet.ts';
import type { Caller } from '../caller/caller.ts';
import { printError } from '../output/errors.ts';
import { printJson } from '../output/print.ts';
import { printTable } from '../output/table.ts';
import { collect, errorJson, inOrder, readKeyrings } from './read-all.ts';

/** The exit status for each verdict; several files give the highest. */
const STATUS = { trusted: 0, untrusted: 1, broken: 2 } as const;

interface Judged {
  readonly result: ReadResult;
  readonly verdict: keyof typeof STATUS;
  /** Why it is broken. */
  readonly faults: readonly string[];
}

interface VerifyOptions {
  readonly keyring?: readonly string[];
  readonly json?: boolean;
}

/** `kiln rpm verify`. */
export function verifyCommand(caller: Caller): Command {
  return new Command('verify')
    .description('Check every digest and signature of .rpm files, payload included.')
    .argument('<file...>', '.rpm files')
    .option(
      '--keyring <file>',
      'trust the armored OpenPGP public keys in this file (repeatable)',
      collect,
    )
    .option('--json', 'print one JSON object per file')
    .addHelpText(
      'after',
      `
Exit status: 0 undamaged and signed by a key of the keyring; 1 undamaged, but unsigned or signed by
an unknown key; 2 damaged, or changed after signing. For several files, the highest of theirs.

Examples:
  kiln rpm verify --keyring /etc/pki/rpm-gpg/RPM-GPG-KEY-fedora-42-x86_64 *.rpm
  kiln rpm verify --json *.rpm | jq -r 'select(.verdict == "broken") | .file'`,
    )
    .action((files: string[], options: VerifyOptions) => verify(files, options, caller));
}

async function verify(
  files: readonly string[],
  options: VerifyOptions,
  caller: Caller,
): Promise<void> {
  const keys = readKeyrings(options.keyring ?? []);
  const judged = (await inOrder(readRpms(files, { keys, depth: 'all' }))).map(judge);
  caller.exitStatus = Math.max(...judged.map(({ verdict }) => STATUS[verdict]));
  if (options.json === true) {
    for (const one of judged) printJson(caller.stdout, toJson(one));
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

function toJson({ result, verdict, faults }: Judged) {
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
