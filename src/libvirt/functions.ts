/** The address of a native object. koffi represents pointers as BigInt; null is the null pointer. */
export type Pointer = bigint;

/** A native function: called directly it blocks, `async` runs it on a thread of libuv's pool. */
export type Native<Args extends unknown[], Result> = ((...args: Args) => Result) & {
  async(...args: [...Args, (error: Error | null, result: Result) => void]): void;
};

export type Nullable = Pointer | null;

/** The functions of libvirt.so.0 that kiln calls, as the headers declare them. */
export interface Libvirt {
  readonly virInitialize: Native<[], number>;
  readonly virGetLastError: Native<[], Nullable>;
  readonly virConnGetLastError: Native<[Pointer], Nullable>;
  readonly virConnectOpen: Native<[string], Nullable>;
  readonly virConnectClose: Native<[Pointer], number>;
  readonly virConnectIsAlive: Native<[Pointer], number>;
  readonly virConnectGetLibVersion: Native<[Pointer, BigUint64Array], number>;
  readonly virConnectGetCapabilities: Native<[Pointer], Nullable>;
  readonly virConnectListAllDomains: Native<[Pointer, BigUint64Array, number], number>;
  /** The connection the domain was found on; not counted, not to be closed. */
  readonly virDomainGetConnect: Native<[Pointer], Pointer>;
  readonly virDomainGetName: Native<[Pointer], string | null>;
  readonly virDomainGetUUIDString: Native<[Pointer, Uint8Array], number>;
  readonly virDomainGetXMLDesc: Native<[Pointer, number], Nullable>;
  readonly virDomainLookupByName: Native<[Pointer, string], Nullable>;
  readonly virDomainLookupByUUIDString: Native<[Pointer, string], Nullable>;
  readonly virDomainCreateXML: Native<[Pointer, string, number], Nullable>;
  readonly virDomainDefineXML: Native<[Pointer, string], Nullable>;
  readonly virDomainIsPersistent: Native<[Pointer], number>;
  readonly virDomainUndefine: Native<[Pointer], number>;
  readonly virDomainDestroy: Native<[Pointer], number>;
  readonly virDomainFree: Native<[Pointer], number>;
}

/** Their C prototypes, in koffi's notation. */
export const DECLARATIONS: Readonly<Record<keyof Libvirt, string>> = {
  virInitialize: 'int virInitialize()',
  virGetLastError: 'void *virGetLastError()',
  virConnGetLastError: 'void *virConnGetLastError(void *conn)',
  virConnectOpen: 'void *virConnectOpen(const char *uri)',
  virConnectClose: 'int virConnectClose(void *conn)',
  virConnectIsAlive: 'int virConnectIsAlive(void *conn)',
  virConnectGetLibVersion: 'int virConnectGetLibVersion(void *conn, void *version)',
  virConnectGetCapabilities: 'void *virConnectGetCapabilities(void *conn)',
  virConnectListAllDomains: 'int virConnectListAllDomains(void *conn, void *list, uint flags)',
  virDomainGetConnect: 'void *virDomainGetConnect(void *dom)',
  virDomainGetName: 'const char *virDomainGetName(void *dom)',
  virDomainGetUUIDString: 'int virDomainGetUUIDString(void *dom, void *buf)',
  virDomainGetXMLDesc: 'void *virDomainGetXMLDesc(void *dom, uint flags)',
  virDomainLookupByName: 'void *virDomainLookupByName(void *conn, const char *name)',
  virDomainLookupByUUIDString: 'void *virDomainLookupByUUIDString(void *conn, const char *uuid)',
  virDomainCreateXML: 'void *virDomainCreateXML(void *conn, const char *xml, uint flags)',
  virDomainDefineXML: 'void *virDomainDefineXML(void *conn, const char *xml)',
  virDomainIsPersistent: 'int virDomainIsPersistent(void *dom)',
  virDomainUndefine: 'int virDomainUndefine(void *dom)',
  virDomainDestroy: 'int virDomainDestroy(void *dom)',
  virDomainFree: 'int virDomainFree(void *dom)',
};
