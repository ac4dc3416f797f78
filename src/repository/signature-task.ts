/** Confined task `repository-signature`: checks repomd.xml's detached OpenPGP signature. */
import { z } from 'zod';
import type { ConfinedTask } from '../confine/task.ts';
import { KilnError } from '../errors.ts';
import { loadKeyring } from '../rpm/keyring.ts';

export const signatureInputSchema = z.strictObject({
  /** Armored public keys. */
  keys: z.array(z.string()),
  /** Base64 of the signed bytes. */
  content: z.string(),
  /** Armored, or base64 of the binary form if it does not begin with dashes. */
  signature: z.string(),
});

export const task: ConfinedTask = {
  async prepare() {
    // Loaded while there is still a way to files.
    await loadKeyring([]);
  },
  async run(value, { emit }) {
    const input = signatureInputSchema.parse(value);
    emit(await checkSignature(input));
  },
};

/** Whether any of the keys made the signature; else why not. */
async function checkSignature(input: z.output<typeof signatureInputSchema>): Promise<string> {
  const keyring = await loadKeyring(input.keys);
  const { openpgp } = keyring;
  const signature = await (input.signature.startsWith('-----BEGIN')
    ? openpgp.readSignature({ armoredSignature: input.signature })
    : openpgp.readSignature({ binarySignature: Buffer.from(input.signature, 'base64') })
  ).catch((cause: Error) => {
    throw new KilnError('E_REPOSITORY_SIGNATURE', 'repomd.xml.asc is no OpenPGP signature', {
      cause,
    });
  });
  const message = await openpgp.createMessage({ binary: Buffer.from(input.content, 'base64') });
  const reasons: string[] = [];
  for (const keyId of signature.getSigningKeyIDs()) {
    const match = keyring.find({ fingerprint: null, keyId: keyId.toHex() });
    if (match === undefined) {
      reasons.push(`key ${keyId.toHex()} is not among the trusted ones`);
      continue;
    }
    const { signatures } = await openpgp.verify({
      message,
      signature,
      verificationKeys: [match.library.key],
    });
    const results = signatures.filter((result) => result.keyID.equals(keyId));
    for (const { verified } of results) {
      const problem = await verified.then(
        () => undefined,
        (error: Error) => error.message,
      );
      if (problem === undefined) return 'ok';
      reasons.push(`key ${keyId.toHex()}: ${problem}`);
    }
  }
  return reasons.join('; ') || 'it holds no signature';
}
