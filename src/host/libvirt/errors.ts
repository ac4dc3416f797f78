import type { ErrorCode } from '../../error-codes.ts';
import { KilnError, type KilnErrorOptions } from '../../errors.ts';

/** `virError` of libvirt/virterror.h, copied out of native memory; level 2 is an error. */
export interface VirError {
  readonly code: number;
  readonly domain: number;
  readonly message: string;
  readonly level: number;
}

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

export class LibvirtError extends KilnError {
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
  const hint = hintFor(error, uri);
  return new LibvirtError(code, `libvirt failed to ${what}: ${error.message.trimEnd()}`, {
    libvirt: error,
    hint,
  });
}

const LACKING = /guest failed to start|libvirt_lxc startup|controller '\w+' is not available/;

function hintFor({ code, message }: VirError, uri: string): string | undefined {
  if (code === VIR_ERR.NO_NETWORK)
    return `\`virsh -c '${uri}' net-list\` lists libvirt’s networks, docs/engine.md has how to make one; without one, \`--egress HOST\` lets a command reach that host`;
  if (!LACKING.test(message)) return undefined;
  return '`kiln doctor` tells what this host, or the container that kiln is in, lacks';
}
