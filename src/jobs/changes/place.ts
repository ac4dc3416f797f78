import { type BigIntStats, constants } from 'node:fs';
import type { ByteString } from '../../artifacts/byte-string.ts';
import { RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV } from '../../host/files/at.ts';

/** Below the folder, through no link and on no other mount. */
export const RESOLVE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV;
export const FOLDER = { flags: constants.O_RDONLY | constants.O_DIRECTORY, resolve: RESOLVE };

/** Set-id bits and the sticky one mean nothing good elsewhere. */
export const RWX = 0o777;

/** Where something lies in the folder. */
export interface Place {
  readonly folder: number;
  readonly above: ByteString;
  readonly name: Buffer;
  readonly there: BigIntStats | undefined;
}
