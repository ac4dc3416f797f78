import type { Engine } from '../../src/engine.ts';
import { allowedMissing } from '../../src/sandbox/policy/layers.ts';

/** What an engine knows of its caller, where that is the test. */
export const ownCaller: Omit<Engine, 'paths' | 'connect'> = {
  owner: undefined,
  cwd: () => process.cwd(),
  renamed: (value) => value,
  holdName: async () => undefined,
  allowMissing: () => allowedMissing(process.env),
  // The test's recipes are the test's own.
  allowHost: () => true,
  signingPassphrase: () => process.env.KILN_SIGN_PASSPHRASE,
};
