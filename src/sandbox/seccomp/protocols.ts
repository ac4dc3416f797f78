/**
 * What a command may name so that the host's kernel loads a module for it: protocols, line disciplines, bridges. The
 * more it may name, the more of the kernel it can attack. In front of kiln's own profiles alone: who gives one decides.
 * Sources: socket(2), the kernel's net/socket.c, af_inet.c, af_netlink.c, tty_ldisc.c, tcp_ao.c.
 */
import type { Capability } from '../../host/process/process.ts';
import type { SeccompFilter } from './profile.ts';
import {
  AND,
  argumentAt,
  guard,
  IF_EQUAL,
  type Instruction,
  ifEqual,
  ifWithin,
  LOAD,
  onCall,
  type Refuse,
  refusing,
  TO_PROFILE,
  withGuard,
} from './program.ts';

/** errno(3) */
const EPERM = 1;
const ENOTTY = 25;
const ENOPROTOOPT = 92;
const EPROTONOSUPPORT = 93;
const EOPNOTSUPP = 95;

/** linux/socket.h, linux/net.h, linux/in.h, linux/netlink.h */
const [UNIX, INET, INET6, NETLINK] = [1, 2, 10, 16];
const [STREAM, DGRAM, RAW] = [1, 2, 3];
const [TCP, UDP, ICMP, ICMPV6] = [6, 17, 1, 58];
const [ROUTE, AUDIT, NETFILTER] = [0, 9, 12];
/** SOCK_NONBLOCK and SOCK_CLOEXEC are in the same argument. */
const TYPE_MASK = 0xf;

/** Of a family in this list nothing else may be named; other families are the profile's. */
interface Allowed {
  readonly family: number;
  readonly type?: number;
  /** Any where missing. */
  readonly protocols?: readonly number[];
}

function allowedSockets(capabilities: readonly Capability[]): Allowed[] {
  const internet = [INET, INET6].flatMap((family): Allowed[] => [
    { family, type: STREAM, protocols: [0, TCP] },
    { family, type: DGRAM, protocols: [0, UDP] },
    // The kernel loads nothing for these: raw sockets take any number.
    ...(capabilities.includes('NET_RAW') ? [{ family, type: RAW }] : []),
  ]);
  return [
    ...internet,
    // ping; whether it may is up to the network (net.ipv4.ping_group_range).
    { family: INET, type: DGRAM, protocols: [ICMP] },
    { family: INET6, type: DGRAM, protocols: [ICMPV6] },
    // The C library asks for addresses by ROUTE, and bubblewrap and systemd bring up `lo`. The profile says what AUDIT
    // comes to, which useradd insists on an answer from. nft and iptables are what a firewall is made with.
    { family: NETLINK, protocols: [ROUTE, AUDIT] },
    ...(capabilities.includes('NET_ADMIN') ? [{ family: NETLINK, protocols: [NETFILTER] }] : []),
  ];
}

function socketCheck(rules: readonly Allowed[], refuse: Refuse): Instruction[] {
  const families = [...new Set(rules.map(({ family }) => family))].flatMap((family) => {
    const body = rules.filter((rule) => rule.family === family).flatMap(allow);
    // As the kernel says to whoever lacks NET_RAW.
    const raw = family === NETLINK ? [] : ifType(RAW, [refuse(EPERM)]);
    return ifEqual(family, [...body, ...raw, refuse(EPROTONOSUPPORT)]);
  });
  return [[LOAD, argumentAt(0)], ...families, TO_PROFILE];
}

function allow({ type, protocols }: Allowed): Instruction[] {
  const body: Instruction[] =
    protocols === undefined
      ? [TO_PROFILE]
      : [
          [LOAD, argumentAt(2)],
          ...protocols.flatMap((protocol) => ifEqual(protocol, [TO_PROFILE])),
        ];
  return type === undefined ? body : ifType(type, body);
}

function ifType(type: number, body: readonly Instruction[]): Instruction[] {
  return [[LOAD, argumentAt(1)], [AND, TYPE_MASK], ...ifEqual(type, body)];
}

/** The kernel makes two sockets of any protocol before it says that they cannot be a pair. */
const pairCheck = (refuse: Refuse): Instruction[] => [
  [LOAD, argumentAt(0)],
  [IF_EQUAL, UNIX, 1, 0],
  refuse(EOPNOTSUPP),
  TO_PROFILE,
];

/** First and last number: asm-generic/ioctls.h (TIOCSETD), linux/sockios.h (DLCI and VLAN, bridges). */
const LINE_DISCIPLINE = [0x5423, 0x5423] as const;
const INTERFACES = [
  [0x8940, 0x8941],
  [0x8980, 0x8983],
  [0x89a0, 0x89a3],
] as const;

function ioctlCheck(capabilities: readonly Capability[], refuse: Refuse): Instruction[] {
  const ranges = [LINE_DISCIPLINE, ...(capabilities.includes('NET_ADMIN') ? [] : INTERFACES)];
  return [[LOAD, argumentAt(1)], ...ifWithin(ranges, refuse(ENOTTY)), TO_PROFILE];
}

/** linux/tcp.h: the digest of TCP_AO_ADD_KEY is the name of a module. */
const TCP_AO_ADD_KEY = 38;

const optionCheck = (refuse: Refuse): Instruction[] => [
  [LOAD, argumentAt(1)],
  ...ifEqual(TCP, [
    [LOAD, argumentAt(2)],
    ...ifEqual(TCP_AO_ADD_KEY, [refuse(ENOPROTOOPT)]),
    TO_PROFILE,
  ]),
  TO_PROFILE,
];

/** @param capabilities of the command, which the profile was made for */
export function withProtocolGuard(
  filter: SeccompFilter,
  capabilities: readonly Capability[],
): SeccompFilter {
  const rules = allowedSockets(capabilities);
  return withGuard(filter, (asks) => {
    const refuse = refusing(asks);
    return guard(({ socket, socketpair, ioctl, setsockopt }) => [
      ...onCall(socket, socketCheck(rules, refuse)),
      ...onCall(socketpair, pairCheck(refuse)),
      ...onCall(ioctl, ioctlCheck(capabilities, refuse)),
      ...onCall(setsockopt, optionCheck(refuse)),
    ]);
  });
}
