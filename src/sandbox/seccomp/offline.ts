/**
 * A profile for commands that must not use the network of a box that has one: no internet socket and
 * no packet socket can be made. What else there is of network, io_uring and sockets handed over, the
 * profiles refuse and a box does not have.
 */
interface Rule {
  readonly names?: readonly string[];
  readonly args?: readonly { readonly index: number; readonly value: number }[] | null;
}

/** AF_INET, AF_INET6, AF_PACKET of linux/socket.h. */
const FAMILIES: readonly number[] = [2, 10, 17];

/** `base`, a profile as podman has it that allows socket() by its family, less those families. */
export function offlineProfile<Profile extends { readonly syscalls: readonly Rule[] }>(
  base: Profile,
): Profile {
  const isOnline = ({ names, args }: Rule) =>
    names?.includes('socket') === true &&
    args?.some(({ index, value }) => index === 0 && FAMILIES.includes(value)) === true;
  return { ...base, syscalls: base.syscalls.filter((rule) => !isOnline(rule)) };
}
