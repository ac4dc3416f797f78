/**
 * systemd's journal, by its native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL): a datagram with a field on each
 * line. Where it is full or missing, the event is only in the state.
 */
import { closeDescriptor } from '../host/calls/descriptor.ts';
import { attempt } from '../host/calls/libc.ts';
import { addon } from '../host/calls/system-call.ts';
import { connectUnixSocket, SOCK_DGRAM } from '../host/sockets/unix-socket.ts';
import { MSG_DONTWAIT, MSG_NOSIGNAL } from '../host/sockets/watch.ts';
import { eventText, type KilnEvent } from './event.ts';

const SOCKET = '/run/systemd/journal/socket';

/** How long a missing socket is not looked for again, ms. */
const MISSING_MS = 10_000;

/** As syslog(3) numbers them. */
const WARNING = 4;
const NOTICE = 5;
const INFO = 6;

let connection: { readonly path: string; readonly fd: number } | undefined;
let missingUntil = 0;

export function sendToJournal(event: KilnEvent, path = SOCKET): void {
  const fd = connected(path);
  if (fd === undefined) return;
  const sent = addon().sendMessage(fd, journalMessage(event), [], MSG_DONTWAIT | MSG_NOSIGNAL);
  const isFull = sent === -EAGAIN;
  if (sent >= 0 || isFull) return;
  // The journal was restarted: the next event looks for its socket.
  closeDescriptor(fd);
  connection = undefined;
}

const EAGAIN = 11;

function connected(path: string): number | undefined {
  if (connection?.path === path) return connection.fd;
  if (path === SOCKET && performance.now() < missingUntil) return undefined;
  const fd = attempt(() => connectUnixSocket(path, SOCK_DGRAM));
  if (fd === undefined) {
    missingUntil = performance.now() + MISSING_MS;
    return undefined;
  }
  if (connection !== undefined) closeDescriptor(connection.fd);
  connection = { path, fd };
  return fd;
}

/** Each field of an event is a field of the journal: `sandbox` is KILN_SANDBOX. */
function journalMessage(event: KilnEvent): Buffer {
  const fields = Object.entries(event).map(([name, value]) => [
    `KILN_${name.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`,
    Array.isArray(value) ? value.join('\n') : value,
  ]);
  const all = [
    ['MESSAGE', eventText(event).replace(/^\S+ /, '')],
    ['PRIORITY', priorityOf(event)],
    ['SYSLOG_IDENTIFIER', 'kiln'],
    ...fields,
  ];
  const known = all.filter(([, value]) => value !== undefined && value !== '');
  return Buffer.concat(known.map(([name, value]) => field(String(name), String(value))));
}

/** What has ends of lines is sent with its length. */
function field(name: string, value: string): Buffer {
  if (!value.includes('\n')) return Buffer.from(`${name}=${value}\n`);
  const bytes = Buffer.from(value);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(bytes.length));
  return Buffer.concat([Buffer.from(`${name}\n`), length, bytes, Buffer.from('\n')]);
}

function priorityOf({ event, outcome, decision }: KilnEvent): number {
  if (event === 'refused' || decision === 'denied' || outcome === 'lost') return WARNING;
  return outcome === 'failed' ? NOTICE : INFO;
}
