/** DHCP for IPv4 (RFC 2131, options of RFC 2132). Answers are hostile: bounded, and ignored if incomplete. */

/** DHCP message types (RFC 2132, 9.6). */
export const DHCP = { discover: 1, offer: 2, request: 3, ack: 5, nak: 6 } as const;

const OPTION = {
  pad: 0,
  mask: 1,
  router: 3,
  nameServers: 6,
  hostName: 12,
  requestedAddress: 50,
  leaseTime: 51,
  type: 53,
  server: 54,
  wanted: 55,
  renewalTime: 58,
  rebindingTime: 59,
  end: 255,
} as const;

const BOOTREQUEST = 1;
const BOOTREPLY = 2;
const ETHERNET = 1;
/** Asks for broadcast answers: the client has no address yet. */
const BROADCAST = 0x8000;
const COOKIE = 0x6382_5363;
const OPTIONS_AT = 240;
/** The least length: some servers ignore shorter messages (RFC 1542, 2.1). */
const LEAST = 300;
/** RFC 2132: the lease time that never ends. */
const FOREVER = 0xffff_ffff;

/** What a client asks for. */
export interface DhcpWish {
  readonly current?: string;
  readonly requested?: string;
  readonly server?: string;
}

export interface DhcpQuestion extends DhcpWish {
  readonly type: typeof DHCP.discover | typeof DHCP.request;
}

export interface DhcpRequest extends DhcpQuestion {
  readonly transaction: number;
  readonly hardware: Buffer;
  readonly hostname: string;
}

/** A server's answer. Times in seconds. */
export interface DhcpAnswer {
  readonly type: number;
  readonly transaction: number;
  readonly address: string;
  readonly server: string;
  readonly mask: string;
  readonly gateway: string | undefined;
  readonly nameServers: readonly string[];
  readonly lease: number;
  readonly renewal: number;
  readonly rebinding: number;
}

export function encodeDhcp(request: DhcpRequest): Buffer {
  const head = Buffer.alloc(OPTIONS_AT);
  head.set([BOOTREQUEST, ETHERNET, request.hardware.length]);
  head.writeUInt32BE(request.transaction, 4);
  head.writeUInt16BE(request.current === undefined ? BROADCAST : 0, 10);
  if (request.current !== undefined) head.set(bytesOf(request.current), 12);
  head.set(request.hardware, 28);
  head.writeUInt32BE(COOKIE, 236);
  const wanted = [
    ...[OPTION.mask, OPTION.router, OPTION.nameServers],
    ...[OPTION.leaseTime, OPTION.renewalTime, OPTION.rebindingTime],
  ];
  const body = Buffer.concat([
    head,
    option(OPTION.type, Buffer.of(request.type)),
    option(OPTION.hostName, Buffer.from(request.hostname)),
    ...(request.requested === undefined
      ? []
      : [option(OPTION.requestedAddress, bytesOf(request.requested))]),
    ...(request.server === undefined ? [] : [option(OPTION.server, bytesOf(request.server))]),
    option(OPTION.wanted, Buffer.from(wanted)),
    Buffer.of(OPTION.end),
  ]);
  return Buffer.concat([body, Buffer.alloc(Math.max(0, LEAST - body.length))]);
}

function option(code: number, value: Buffer): Buffer {
  return Buffer.concat([Buffer.of(code, value.length), value]);
}

export function decodeDhcp(bytes: Buffer, hardware: Buffer): DhcpAnswer | undefined {
  if (bytes.length < OPTIONS_AT || bytes.readUInt32BE(236) !== COOKIE) return undefined;
  if (bytes[0] !== BOOTREPLY || bytes[1] !== ETHERNET || bytes[2] !== hardware.length) {
    return undefined;
  }
  if (!bytes.subarray(28, 28 + hardware.length).equals(hardware)) return undefined;
  const options = optionsOf(bytes.subarray(OPTIONS_AT));
  const [type] = options.get(OPTION.type) ?? [];
  if (type === undefined) return undefined;
  const address = (code: number) => addressesIn(options.get(code))[0];
  const seconds = (code: number, otherwise: number) => {
    const value = options.get(code);
    if (value?.length !== 4) return otherwise;
    const number = value.readUInt32BE();
    return number === FOREVER ? Number.POSITIVE_INFINITY : number;
  };
  const lease = seconds(OPTION.leaseTime, 0);
  return {
    type,
    transaction: bytes.readUInt32BE(4),
    address: dotted(bytes.subarray(16, 20)),
    server: address(OPTION.server) ?? '0.0.0.0',
    mask: address(OPTION.mask) ?? '255.255.255.255',
    gateway: address(OPTION.router),
    nameServers: addressesIn(options.get(OPTION.nameServers)),
    lease,
    renewal: seconds(OPTION.renewalTime, lease / 2),
    rebinding: seconds(OPTION.rebindingTime, (lease * 7) / 8),
  };
}

/** The options up to the first incomplete one; the first of a kind counts. */
function optionsOf(bytes: Buffer): Map<number, Buffer> {
  const options = new Map<number, Buffer>();
  for (let at = 0; at < bytes.length; ) {
    const code = bytes[at] ?? OPTION.end;
    if (code === OPTION.end) break;
    if (code === OPTION.pad) {
      at++;
      continue;
    }
    const length = bytes[at + 1];
    if (length === undefined || at + 2 + length > bytes.length) break;
    if (!options.has(code)) options.set(code, bytes.subarray(at + 2, at + 2 + length));
    at += 2 + length;
  }
  return options;
}

function addressesIn(value: Buffer | undefined): string[] {
  if (value === undefined || value.length % 4 !== 0) return [];
  return Array.from({ length: value.length / 4 }, (_, index) =>
    dotted(value.subarray(4 * index, 4 * index + 4)),
  );
}

function dotted(bytes: Buffer): string {
  return bytes.join('.');
}

function bytesOf(address: string): Buffer {
  return Buffer.from(address.split('.').map(Number));
}
