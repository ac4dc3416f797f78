/** `ssh://USER@HOST[:PORT]`: which machine is meant. */
import { KilnError } from '../errors.ts';

export interface RemoteAddress {
  readonly host: string;
  readonly user: string | undefined;
  readonly port: string | undefined;
}

/** @throws KilnError E_ARGUMENT */
export function parseAddress(text: string): RemoteAddress {
  const url = URL.parse(text);
  const host = url?.hostname.replace(/^\[(.*)\]$/, '$1') ?? '';
  const user = decoded(url?.username ?? '');
  const isRight =
    url?.protocol === 'ssh:' &&
    url.password === '' &&
    ['', '/'].includes(url.pathname) &&
    url.search === '' &&
    url.hash === '' &&
    // No option of ssh's.
    /^[A-Za-z0-9:][\w.:%-]*$/.test(host) &&
    (user === '' || /^[A-Za-z0-9_][\w.@\\-]*$/.test(user));
  if (!isRight) {
    throw new KilnError('E_ARGUMENT', `${text} is not the address of a machine`, {
      hint: 'write it as ssh://USER@HOST:PORT; what else ssh needs, your ~/.ssh/config says',
    });
  }
  return { host, user: user || undefined, port: url.port || undefined };
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return '\0';
  }
}

/** Arguments of ssh(1) that run a command there: no terminal, for what comes and goes is not text. */
export function sshArguments({ host, user, port }: RemoteAddress, command: string): string[] {
  return [
    // A connection that is dead is noticed; all else is as the user's configuration of ssh says.
    ...['-T', '-o', 'ServerAliveInterval=15', '-o', 'ServerAliveCountMax=3'],
    ...(port === undefined ? [] : ['-p', port]),
    ...(user === undefined ? [] : ['-l', user]),
    ...['--', host, command],
  ];
}
