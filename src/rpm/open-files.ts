/** The files a confined child is to read, opened by the parent: the child sees no path of the host. */
import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { rpmError } from './errors.ts';

/** Descriptors handed to one child at most: far below any limit on open files. */
export const MAX_FDS = 500;

const HINT = 'give the path of an RPM package';

export interface OpenFile {
  readonly fd: number;
  readonly size: number;
}

/**
 * Opens a regular file for reading; the caller closes it.
 * @throws KilnError E_RPM_FORMAT with Node's error as its cause.
 */
export function openFile(file: string): OpenFile {
  let fd: number;
  try {
    // NONBLOCK: a fifo must not stop us.
    fd = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    throw rpmError('E_RPM_FORMAT', `${file}: cannot be read`, { cause, hint: HINT });
  }
  const stat = fstatSync(fd);
  if (stat.isFile()) return { fd, size: stat.size };
  closeSync(fd);
  throw rpmError('E_RPM_FORMAT', `${file}: is not a regular file`, { hint: HINT });
}
