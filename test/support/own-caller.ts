import { allowedMissing } from '../../src/sandbox/layers.ts';
import type { Engine } from '../../src/sandbox/open.ts';

/** What an engine knows of its caller, where that is the test. */
export const ownCaller: Omit<Engine, 'paths' | 'connect'> = {
  owner: undefined,
  cwd: () => process.cwd(),
  allowMissing: () => allowedMissing(process.env),
  signingPassphrase: () => process.env.KILN_SIGN_PASSPHRASE,
};
