/** Confined task `repository-signature`: checks repomd.xml's detached OpenPGP signature as rpm does. */
import { KilnError } from '../../../errors.ts';
import type { SingleTask } from '../../../host/confine/task.ts';
import { type JudgedSignature, Keyring } from '../../rpm/signature/keyring.ts';
import { Armor, loadLibrpmio } from '../../rpm/signature/librpmio.ts';
import { splitPackets } from '../../rpm/signature/signature-packet.ts';

export interface SignatureInput {
  readonly keys: readonly string[];
  /** Base64 of the signed bytes. */
  readonly content: string;
  /** Armored, or base64 of the binary form if it does not begin with dashes. */
  readonly signature: string;
}

/** The most signatures that are checked: a distribution that changes its key has two. */
const MOST_SIGNATURES = 16;

export const task: SingleTask = {
  prepare() {
    loadLibrpmio();
  },
  run(value, { emit }) {
    emit(checkSignature(value as SignatureInput));
  },
};

function checkSignature({ keys, content, signature }: SignatureInput) {
  const keyring = new Keyring(loadLibrpmio(), keys);
  const signed = Buffer.from(content, 'base64');
  const packets = [...splitPackets(binary(signature))].slice(0, MOST_SIGNATURES);
  if (packets.length === 0) throw noSignatureError();
  const judged = packets.map((packet) => keyring.judge(packet, (use) => use(signed)));
  return judged.some(({ status }) => status === 'ok') ? 'ok' : judged.map(fault).join('; ');
}

function binary(signature: string): Buffer {
  if (!signature.startsWith('-----BEGIN')) return Buffer.from(signature, 'base64');
  const packets = loadLibrpmio().dearmor(signature);
  if (packets?.kind !== Armor.signature) throw noSignatureError();
  return packets.bytes;
}

function fault({ keyId, status, reason }: JudgedSignature): string {
  const key = `key ${keyId === '' ? 'unknown' : keyId}`;
  return status === 'nokey' ? `${key} is not among the trusted ones` : `${key}: ${reason}`;
}

function noSignatureError(): KilnError {
  return new KilnError('E_REPOSITORY_SIGNATURE', 'repomd.xml.asc is not an OpenPGP signature', {
    hint: 'try again later: the mirror is at fault',
  });
}
