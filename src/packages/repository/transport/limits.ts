/** The most bytes from a server, by kind; far more than distributions have. */

const MIB = 1 << 20;
const GIB = 1 << 30;

/** Fedora's largest metalinks are about 100 KiB. */
export const MAX_METALINK: number = 4 * MIB;
export const MAX_MIRRORLIST: number = MIB;
/** Usually 5 KiB. */
export const MAX_REPOMD: number = 4 * MIB;
export const MAX_SIGNATURE: number = 256 << 10;
/** One metadata file as compressed; Fedora's filelists are about 60 MiB. */
export const MAX_METADATA: number = GIB;
/** One metadata file decompressed; Fedora's filelists are about 800 MiB. */
export const MAX_OPEN_METADATA: number = 8 * GIB;
/** One package. */
export const MAX_PACKAGE: number = 32 * GIB;
