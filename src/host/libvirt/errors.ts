import type { ErrorCode } from '../../error-codes.ts';
import { KilnError, type KilnErrorOptions } from '../../errors.ts';

/**
 * What libvirt says about a failure: `virError` of libvirt/virterror.h, copied out of native memory.
 * `code` is a virErrorNumber, `domain` a virErrorDomain, `level` a virErrorLevel (2 = error).
 */
export interface VirError {
  readonly code: number;
  readonly domain: number;
  readonly message: string;
  readonly level: number;
}

/** virErrorNumber values that kiln acts on (libvirt/virterror.h; the list only ever grows). */
export const VIR_ERR = {
  XML_ERROR: 27,
  XML_DETAIL: 35,
  NO_DOMAIN: 42,
  NO_NETWORK: 43,
  OPERATION_INVALID: 55,
} as const;

const CODES: ReadonlyMap<number, ErrorCode> = new Map([
  [VIR_ERR.XML_ERROR, 'E_LIBVIRT_XML'],
  [VIR_ERR.XML_DETAIL, 'E_LIBVIRT_XML'],
  [VIR_ERR.NO_DOMAIN, 'E_LIBVIRT_NO_DOMAIN'],
  [VIR_ERR.NO_NETWORK, 'E_LIBVIRT_NO_NETWORK'],
]);

/** A failure in libvirt or on the way to it. Its code begins with `E_LIBVIRT`. */
export class LibvirtError extends KilnError {
  /** libvirt's own error; undefined where kiln itself refused the call. */
  readonly libvirt: VirError | undefined;

  constructor(
    code: ErrorCode,
    message: string,
    options: KilnErrorOptions & { readonly libvirt?: VirError | undefined } = {},
  ) {
    const { libvirt, ...rest } = options;
    super(code, message, libvirt === undefined ? rest : { ...rest, details: { libvirt } });
    this.libvirt = libvirt;
  }
}

export function failedCall(what: string, error: VirError | undefined, uri: string): LibvirtError {
  if (error === undefined) {
    return new LibvirtError('E_LIBVIRT', `libvirt failed to ${what} and gave no reason`, {
      hint: '`kiln doctor` tells whether libvirt works',
    });
  }
  const code = CODES.get(error.code) ?? 'E_LIBVIRT';
  return new LibvirtError(code, `libvirt failed to ${what}: ${error.message}`, {
    libvirt: error,
    ...(/guest failed to start|libvirt_lxc startup|controller '\w+' is not available/.test(
      error.message,
    )
      ? { hint: '`kiln doctor` tells what this host, or the container that kiln is in, lacks' }
      : {}),
    ...(error.code === VIR_ERR.NO_NETWORK
      ? {
          hint: `\`virsh -c '${uri}' net-list\` lists what there is; docs/engine.md: how to make one`,
        }
      : {}),
  });
}
