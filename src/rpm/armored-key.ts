/** The first line of an armored OpenPGP public key. */
export const ARMORED_KEY = '-----BEGIN PGP PUBLIC KEY BLOCK-----';
