import type { BigIntStats } from 'node:fs';
import type { ByteString } from '../../artifacts/byte-string.ts';

/** Set-id bits and the sticky one mean nothing good elsewhere. */
export const RWX = 0o777;

/** Where something lies in the folder. */
export interface Place {
  readonly folder: number;
  readonly above: ByteString;
  readonly name: Buffer;
  readonly there: BigIntStats | undefined;
}
