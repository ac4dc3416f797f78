/**
 * What the two ends of `kiln --host` say to each other through ssh, in the frames of
 * src/host/sockets/frames.ts. The near end is the caller's kiln, the far end `kiln remote-stdio` on the other
 * machine.
 */
import { KilnError } from '../errors.ts';
import { attempt } from '../host/calls/libc.ts';

export interface RemoteAddress {
  readonly host: string;
  readonly user: string | undefined;
  readonly port: string | undefined;
}

export function parseAddress(text: string): RemoteAddress {
  const url = URL.parse(text);
  const host = url?.hostname.replace(/^\[(.*)\]$/, '$1') ?? '';
  const user = attempt(() => decodeURIComponent(url?.username ?? '')) ?? '\0';
  const isRight =
    url?.protocol === 'ssh:' &&
    url.password === '' &&
    ['', '/'].includes(url.pathname) &&
    url.search === '' &&
    url.hash === '' &&
    // ssh would read a leading dash as an option.
    /^[A-Za-z0-9:][\w.:%-]*$/.test(host) &&
    (user === '' || /^[A-Za-z0-9_][\w.@\\-]*$/.test(user));
  if (!isRight) {
    throw new KilnError('E_ARGUMENT', `${text} is not the address of a machine`, {
      hint: 'write it as ssh://USER@HOST:PORT; what else ssh needs, your ~/.ssh/config says',
    });
  }
  return { host, user: user || undefined, port: url.port || undefined };
}

export function sshArguments({ host, user, port }: RemoteAddress, command: string): string[] {
  return [
    // A connection that is dead is noticed; all else is as the user's configuration of ssh says.
    ...['-T', '-o', 'ServerAliveInterval=15', '-o', 'ServerAliveCountMax=3'],
    ...(port === undefined ? [] : ['-p', port]),
    ...(user === undefined ? [] : ['-l', user]),
    ...['--', host, command],
  ];
}

/** Changes with everything that the two ends could misunderstand. */
export const PROTOCOL = 1;

/** The frame of a piece of a tar archive: files on their way; an empty one: the archive is whole. */
export const ARCHIVE_FRAME = 5;

/** Bytes of standard input that the far end has not passed on yet. */
export const INPUT_WINDOW = 1 << 20;

/** How often the near end says that it lives, and how long it may be silent, milliseconds. */
export const ALIVE_EVERY = 10_000;
export const SILENCE_MAX = 45_000;

/** Bytes of one frame. */
export const PIECE = 64 * 1024;

export interface RemoteStart {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Which of descriptors 0, 1 and 2 are terminals. */
  readonly terminals: readonly [boolean, boolean, boolean];
  readonly rows: number;
  readonly columns: number;
  readonly outputs: readonly string[];
  readonly detaches: boolean;
}

export type NearControl =
  | { readonly do: 'alive' }
  /** Nobody reads this output any more. */
  | { readonly do: 'close'; readonly output: 1 | 2 }
  | { readonly do: 'signal'; readonly signal: NodeJS.Signals }
  | { readonly do: 'resize'; readonly rows: number; readonly columns: number };

export type FarMessage =
  | {
      readonly kiln: string;
      readonly protocol: number;
      readonly folder: string;
    }
  | { readonly taken: number }
  | { readonly failed: { readonly code: string; readonly message: string; readonly hint?: string } }
  | { readonly status: number };
