import koffi from 'koffi';
import { awaitedLater } from '../../promise.ts';
import { libc, type Native, type Pointer, typed } from '../calls/c-library.ts';
import { LibvirtError, type VirError } from './errors.ts';

const DECLARATIONS = {
  virInitialize: 'int virInitialize()',
  virGetLastError: 'void *virGetLastError()',
  virConnGetLastError: 'void *virConnGetLastError(void *conn)',
  virConnectOpen: 'void *virConnectOpen(const char *uri)',
  virConnectClose: 'int virConnectClose(void *conn)',
  virConnectIsAlive: 'int virConnectIsAlive(void *conn)',
  virConnectGetLibVersion: 'int virConnectGetLibVersion(void *conn, void *version)',
  virConnectGetCapabilities: 'void *virConnectGetCapabilities(void *conn)',
  virConnectListAllDomains: 'int virConnectListAllDomains(void *conn, void *list, uint flags)',
  /** The domain's connection; not reference-counted, and not to be closed. */
  virDomainGetConnect: 'void *virDomainGetConnect(void *dom)',
  virDomainGetName: 'const char *virDomainGetName(void *dom)',
  virDomainGetUUIDString: 'int virDomainGetUUIDString(void *dom, void *buf)',
  virDomainGetXMLDesc: 'void *virDomainGetXMLDesc(void *dom, uint flags)',
  virDomainLookupByName: 'void *virDomainLookupByName(void *conn, const char *name)',
  virDomainLookupByUUIDString: 'void *virDomainLookupByUUIDString(void *conn, const char *uuid)',
  virDomainCreateXML: 'void *virDomainCreateXML(void *conn, const char *xml, uint flags)',
  virDomainSaveFlags: 'int virDomainSaveFlags(void *dom, const char *to, void *xml, uint flags)',
  virDomainRestoreFlags:
    'int virDomainRestoreFlags(void *conn, const char *from, void *xml, uint flags)',
  virDomainDefineXML: 'void *virDomainDefineXML(void *conn, const char *xml)',
  virDomainIsPersistent: 'int virDomainIsPersistent(void *dom)',
  virDomainUndefine: 'int virDomainUndefine(void *dom)',
  virDomainDestroy: 'int virDomainDestroy(void *dom)',
  virDomainFree: 'int virDomainFree(void *dom)',
} as const;

export type Libvirt = ReturnType<typeof typed<typeof DECLARATIONS>>;

const SONAME = 'libvirt.so.0';

const RTLD_LAZY = 1;

let loading: Promise<Libvirt> | undefined;
let freeNative: ((address: Pointer) => void) | undefined;

/**
 * Once a process. The dynamic loader needs 15 ms for sixty libraries and virInitialize 3 ms, both on a thread
 * of the pool: call this early, await it late. @throws LibvirtError E_LIBVIRT_MISSING
 */
export function loadLibvirt(): Promise<Libvirt> {
  loading ??= awaitedLater(
    load().catch((error: unknown) => {
      loading = undefined;
      throw error;
    }),
  );
  return loading;
}

async function load(): Promise<Libvirt> {
  const dlopen: Native<[string, number], Pointer | null> = libc.func(
    'void *dlopen(const char *filename, int flags)',
  );
  freeNative = libc.func('void free(void *address)');
  const handle = await runAsync(dlopen, SONAME, RTLD_LAZY);
  if (handle === null) {
    throw new LibvirtError('E_LIBVIRT_MISSING', `${SONAME} cannot be loaded`, {
      hint: 'install libvirt: apt-get install libvirt0 libvirt-daemon libvirt-daemon-driver-lxc, or dnf install libvirt-daemon-driver-lxc',
    });
  }
  const library = koffi.load(SONAME);
  const bound = typed(library, DECLARATIONS);
  if ((await runAsync(bound.virInitialize)) < 0) {
    throw new LibvirtError('E_LIBVIRT', 'libvirt cannot be initialized', {
      libvirt: lastError(bound),
      hint: '`kiln doctor` tells whether libvirt works',
    });
  }
  // Else libvirt prints every error to stderr. It runs on the thread that failed, so it is native: abs().
  library.func('void virSetErrorFunc(void *userData, void *handler)')(null, libc.symbol('abs'));
  return bound;
}

export function runAsync<Args extends unknown[], Result>(
  native: Native<Args, Result>,
  ...args: Args
): Promise<Result> {
  return new Promise((resolve, reject) => {
    // `args` in this closure keeps the buffers alive until the call is over.
    native.async(...args, (error, result) => {
      if (error === null || error === undefined) resolve(result);
      else reject(error);
      void args;
    });
  });
}

export function takeString(address: Pointer): string {
  const text: string = koffi.decode.string(address);
  freeNative?.(address);
  return text;
}

const POINTER_SIZE = 8n;

export function takeArray(address: Pointer, count: number): Pointer[] {
  // One by one, because koffi 3.3's decode of an array leaks some bytes each time.
  const objects = Array.from({ length: count }, (_, index) =>
    BigInt(koffi.decode.uint64(address + BigInt(index) * POINTER_SIZE)),
  );
  freeNative?.(address);
  return objects;
}

const VIR_ERROR = koffi.struct({
  code: 'int',
  domain: 'int',
  message: 'str',
  level: 'int',
});

function copyError(address: Pointer | null): VirError | undefined {
  if (address === null) return undefined;
  const raw = koffi.decode(address, VIR_ERROR);
  if (raw.code === 0) return undefined;
  return { code: raw.code, domain: raw.domain, message: raw.message ?? '', level: raw.level };
}

/** The error of the calling thread: right only after a synchronous call. */
export function lastError(library: Libvirt): VirError | undefined {
  return copyError(library.virGetLastError());
}

/** Whichever thread made the call: exact while one call at a time uses the connection, as in pool.ts. */
export function connectionError(library: Libvirt, connection: Pointer): VirError | undefined {
  return copyError(library.virConnGetLastError(connection));
}
