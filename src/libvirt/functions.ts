/** The address of a native object. koffi represents pointers as BigInt; null is the null pointer. */
export type Pointer = bigint;

/** A native function: called directly it blocks, `async` runs it on a thread of libuv's pool. */
export type Native<Args extends unknown[], Result> = ((...args: Args) => Result) & {
  async(...args: [...Args, (error: Error | null, result: Result) => void]): void;
};

/** A native address, or null for the null pointer. */
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
  readonly virConnectListAllNetworks: Native<[Pointer, BigUint64Array, number], number>;
  readonly virNetworkGetName: Native<[Pointer], string | null>;
  readonly virNetworkGetUUIDString: Native<[Pointer, Uint8Array], number>;
  readonly virNetworkIsActive: Native<[Pointer], number>;
  readonly virNetworkFree: Native<[Pointer], number>;
  /** The connection the domain was found on; not counted, not to be closed. */
  readonly virDomainGetConnect: Native<[Pointer], Pointer>;
  readonly virDomainGetName: Native<[Pointer], string | null>;
  readonly virDomainGetUUIDString: Native<[Pointer, Uint8Array], number>;
  readonly virDomainGetID: Native<[Pointer], number>;
  readonly virDomainGetState: Native<[Pointer, Int32Array, Int32Array, number], number>;
  readonly virDomainGetInfo: Native<[Pointer, Uint8Array], number>;
  readonly virDomainGetXMLDesc: Native<[Pointer, number], Nullable>;
  readonly virDomainLookupByName: Native<[Pointer, string], Nullable>;
  readonly virDomainLookupByUUIDString: Native<[Pointer, string], Nullable>;
  readonly virDomainCreateXMLWithFiles: Native<
    [Pointer, string, number, Int32Array, number],
    Nullable
  >;
  readonly virDomainCreateXML: Native<[Pointer, string, number], Nullable>;
  readonly virDomainDefineXML: Native<[Pointer, string], Nullable>;
  readonly virDomainCreateWithFlags: Native<[Pointer, number], number>;
  readonly virDomainIsPersistent: Native<[Pointer], number>;
  readonly virDomainUndefine: Native<[Pointer], number>;
  readonly virDomainDestroy: Native<[Pointer], number>;
  readonly virDomainFree: Native<[Pointer], number>;
  /** Callbacks: addHandle, updateHandle, removeHandle, addTimeout, updateTimeout, removeTimeout. */
  readonly virEventRegisterImpl: Native<Pointer[], void>;
  readonly virConnectDomainEventRegisterAny: Native<
    [Pointer, Nullable, number, Pointer, Pointer, Nullable],
    number
  >;
  readonly virConnectDomainEventDeregisterAny: Native<[Pointer, number], number>;
  readonly virConnectRegisterCloseCallback: Native<[Pointer, Pointer, Pointer, Nullable], number>;
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
  virConnectListAllNetworks: 'int virConnectListAllNetworks(void *conn, void *list, uint flags)',
  virNetworkGetName: 'const char *virNetworkGetName(void *net)',
  virNetworkGetUUIDString: 'int virNetworkGetUUIDString(void *net, void *buf)',
  virNetworkIsActive: 'int virNetworkIsActive(void *net)',
  virNetworkFree: 'int virNetworkFree(void *net)',
  virDomainGetConnect: 'void *virDomainGetConnect(void *dom)',
  virDomainGetName: 'const char *virDomainGetName(void *dom)',
  virDomainGetUUIDString: 'int virDomainGetUUIDString(void *dom, void *buf)',
  virDomainGetID: 'uint virDomainGetID(void *dom)',
  virDomainGetState: 'int virDomainGetState(void *dom, void *state, void *reason, uint flags)',
  virDomainGetInfo: 'int virDomainGetInfo(void *dom, void *info)',
  virDomainGetXMLDesc: 'void *virDomainGetXMLDesc(void *dom, uint flags)',
  virDomainLookupByName: 'void *virDomainLookupByName(void *conn, const char *name)',
  virDomainLookupByUUIDString: 'void *virDomainLookupByUUIDString(void *conn, const char *uuid)',
  virDomainCreateXMLWithFiles:
    'void *virDomainCreateXMLWithFiles(void *conn, const char *xml, uint nfiles, void *files, uint flags)',
  virDomainCreateXML: 'void *virDomainCreateXML(void *conn, const char *xml, uint flags)',
  virDomainDefineXML: 'void *virDomainDefineXML(void *conn, const char *xml)',
  virDomainCreateWithFlags: 'int virDomainCreateWithFlags(void *dom, uint flags)',
  virDomainIsPersistent: 'int virDomainIsPersistent(void *dom)',
  virDomainUndefine: 'int virDomainUndefine(void *dom)',
  virDomainDestroy: 'int virDomainDestroy(void *dom)',
  virDomainFree: 'int virDomainFree(void *dom)',
  virEventRegisterImpl:
    'void virEventRegisterImpl(void *ah, void *uh, void *rh, void *at, void *ut, void *rt)',
  virConnectDomainEventRegisterAny:
    'int virConnectDomainEventRegisterAny(void *conn, void *dom, int id, void *cb, void *opaque, void *free)',
  virConnectDomainEventDeregisterAny: 'int virConnectDomainEventDeregisterAny(void *conn, int id)',
  virConnectRegisterCloseCallback:
    'int virConnectRegisterCloseCallback(void *conn, void *cb, void *opaque, void *free)',
};
