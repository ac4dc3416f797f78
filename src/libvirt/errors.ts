import { KilnError, type KilnErrorOptions } from '../errors.ts';

/**
 * What libvirt says about a failure: `virError` of libvirt/virterror.h, copied out of native memory.
 * `code` is a virErrorNumber, `domain` a virErrorDomain, `level` a virErrorLevel (2 = error).
 */
export interface VirError {
  readonly code: number;
  readonly domain: number;
  readonly message: string;
  readonly level: number;
  readonly str1: string | null;
  readonly str2: string | null;
  readonly str3: string | null;
  readonly int1: number;
  readonly int2: number;
}

/** virErrorNumber values that kiln acts on (libvirt/virterror.h; the list only ever grows). */
export const VIR_ERR = {
  XML_ERROR: 27,
  DOM_EXIST: 28,
  XML_DETAIL: 35,
  NO_DOMAIN: 42,
  NO_NETWORK: 43,
  OPERATION_INVALID: 55,
  CONFIG_UNSUPPORTED: 67,
} as const;

const CODES: ReadonlyMap<number, string> = new Map([
  [VIR_ERR.XML_ERROR, 'E_LIBVIRT_XML'],
  [VIR_ERR.XML_DETAIL, 'E_LIBVIRT_XML'],
  [VIR_ERR.NO_DOMAIN, 'E_LIBVIRT_NO_DOMAIN'],
  [VIR_ERR.NO_NETWORK, 'E_LIBVIRT_NO_NETWORK'],
  [VIR_ERR.DOM_EXIST, 'E_LIBVIRT_DOMAIN_EXISTS'],
  [VIR_ERR.OPERATION_INVALID, 'E_LIBVIRT_OPERATION_INVALID'],
  [VIR_ERR.CONFIG_UNSUPPORTED, 'E_LIBVIRT_UNSUPPORTED'],
]);

/**
 * A failure in libvirt or on the way to it. Codes: those above for what libvirt says; `E_LIBVIRT_URI`
 * and `E_LIBVIRT_REMOTE` (a URI kiln does not take), `E_LIBVIRT_MISSING` (not installed),
 * `E_LIBVIRT_START`, `E_LIBVIRT_STOP` (the embedded daemon), `E_LIBVIRT_CONNECT` (no connection),
 * `E_LIBVIRT_LOST` (it broke in the middle of a call), `E_LIBVIRT_CLOSED` (used after close),
 * `E_LIBVIRT_SILENT` (it does not answer), `E_LIBVIRT_LEAK` (a bug of kiln's, found on close), and `E_LIBVIRT` for everything else.
 */
export class LibvirtError extends KilnError {
  /** libvirt's own account; undefined where kiln itself refused the call. */
  readonly libvirt: VirError | undefined;

  constructor(
    code: string,
    message: string,
    options: KilnErrorOptions & { readonly libvirt?: VirError | undefined } = {},
  ) {
    const { libvirt, ...rest } = options;
    super(code, message, libvirt === undefined ? rest : { ...rest, details: { libvirt } });
    this.libvirt = libvirt;
  }
}

/** A LibvirtError for a call named `what`, to the libvirt at `uri`, that failed with `error`. */
export function failedCall(what: string, error: VirError | undefined, uri: string): LibvirtError {
  if (error === undefined) {
    return new LibvirtError('E_LIBVIRT', `libvirt failed to ${what} and gave no reason`);
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
