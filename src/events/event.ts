/** What an event is, as one line of JSON in the state and one reply of the API have it. */

import { counted } from '../counted.ts';
import type { EgressEntry } from '../egress/rule.ts';

/** Whom an event is about. */
export interface Actor {
  readonly uid: number;
  /** The name of the account, as kiln knew it then. */
  readonly user?: string | undefined;
  /** The user that root works for (SUDO_UID). */
  readonly sudo?: number | undefined;
}

/** What is known of the sandbox of a command, of a build's first one; and of snapshots. */
export interface Entered {
  readonly sandbox?: string | undefined;
  /** The digest of the image. */
  readonly image?: string | undefined;
  readonly isolation?: string | undefined;
  readonly network?: string | undefined;
  readonly binds?: readonly string[] | undefined;
  /** The hosts that its proxy lets it reach. */
  readonly egress?: readonly string[] | undefined;
  /** Ports of this host that lead into it, as --publish has them. */
  readonly publish?: readonly string[] | undefined;
  readonly argv?: readonly string[] | undefined;
  /** The id of the snapshot that was taken, removed, gone back to, or begun with. */
  readonly snapshot?: string | undefined;
  /** Those that a fork has made. */
  readonly sandboxes?: readonly string[] | undefined;
}

/** `lost`: the process that worked for it was killed. */
type Outcome = 'ended' | 'failed' | 'interrupted' | 'lost';

export interface KilnEvent extends Actor, Entered {
  readonly event: 'start' | 'end' | 'refused' | 'egress';
  /** Of the action: its start, its end and what it reached have the same. */
  readonly id: string;
  /** ISO 8601, UTC, with milliseconds. */
  readonly time: string;
  /** The words of the command that does the same: `run`, `image build`. */
  readonly command: string;
  readonly by: 'command' | 'api';
  readonly job?: string | undefined;
  readonly outcome?: Outcome | undefined;
  readonly status?: number | undefined;
  readonly code?: string | undefined;
  readonly message?: string | undefined;
  readonly limit?: string | undefined;
  /** Milliseconds from the call to its end. */
  readonly duration?: number | undefined;
  readonly host?: string | undefined;
  readonly port?: number | undefined;
  readonly decision?: 'allowed' | 'denied' | undefined;
  readonly count?: number | undefined;
  readonly sentBytes?: number | undefined;
  readonly receivedBytes?: number | undefined;
}

/** Items of a list that a line has, and characters of each. */
const ITEMS = 16;
const LETTERS = 200;

export function shortText(text: string): string {
  return text.length <= LETTERS ? text : `${text.slice(0, LETTERS - 1)}…`;
}

export function shortList(list: readonly string[]): string[] {
  const shown = list.slice(0, ITEMS).map(shortText);
  return list.length <= ITEMS ? shown : [...shown, `… ${list.length - ITEMS} more`];
}

/** Lines about hosts that one command gets: a command can ask for any number. */
const HOSTS = 32;

/** One of each host, port and decision. */
export function egressDecisions(entries: readonly EgressEntry[]) {
  const decisions = entries.map(({ host, port, refused, ...counts }) => ({
    ...{ host, port },
    decision: refused === undefined ? ('allowed' as const) : ('denied' as const),
    message: refused,
    ...counts,
  }));
  const left = decisions.length - HOSTS;
  if (left <= 0) return decisions;
  const isDenied = ({ decision }: (typeof decisions)[number]) => decision === 'denied';
  // What was refused is what somebody looks for.
  const shown = [...decisions.filter(isDenied), ...decisions.filter((each) => !isDenied(each))];
  const more = {
    host: `${left} more`,
    port: 0,
    decision: undefined,
    message: 'result.json names them',
  };
  return [...shown.slice(0, HOSTS), { ...more, count: left, sentBytes: 0, receivedBytes: 0 }];
}

/** A line for people. Arguments may have ends of lines, and what a terminal obeys. */
export function eventText(event: KilnEvent): string {
  const { time, uid, user, sudo, command, job, sandbox, snapshot, sandboxes, argv = [] } = event;
  const who = `${user ?? uid}${sudo === undefined ? '' : ` (for uid ${sudo})`}`;
  const where = [
    sandbox && `sandbox ${sandbox}`,
    sandboxes && `sandboxes ${sandboxes.join(' ')}`,
    job && `job ${job}`,
  ];
  const inIt = where.filter(Boolean).join(', ');
  const from = snapshot === undefined ? '' : ` with snapshot ${snapshot}`;
  const at = `${inIt && ` in ${inIt}`}${from}`;
  const words = argv.length === 0 ? '' : `: ${argv.join(' ')}`;
  const text = `${time} ${who} ${command} ${whatOf(event)}${at}${words}`;
  return text.replace(/[\p{Cc}\u2028\u2029]/gu, '\ufffd');
}

const timesOf = (count: number) => (count === 1 ? 'once' : `${count} times`);

function whatOf(event: KilnEvent): string {
  const { image, isolation, code, status, limit, duration = 0 } = event;
  const message = event.message?.replace(/:?\s*\n\s*/g, (end) => (end[0] === ':' ? ': ' : '; '));
  switch (event.event) {
    case 'start': {
      const ground = [image && `image ${image.slice(0, 12)}`, isolation].filter(Boolean).join(', ');
      return ground === '' ? 'started' : `started (${ground})`;
    }
    case 'refused':
      return `was refused: ${message} [${code}]`;
    case 'egress': {
      const { host, port, decision, count = 0, sentBytes = 0, receivedBytes } = event;
      const place = port === 0 ? host : `${host}:${port}`;
      if (decision === undefined) return `asked for ${place} hosts: ${message}`;
      if (decision === 'denied') return `was denied ${place}, ${timesOf(count)}: ${message}`;
      return `reached ${place}, ${timesOf(count)}: ${counted(sentBytes, 'byte')} sent, ${receivedBytes} received`;
    }
    case 'end': {
      const took = `after ${(duration / 1000).toFixed(3)} s`;
      const why = limit === undefined ? '' : `, at the limit ${limit}`;
      if (event.outcome === 'lost') return 'was lost: its process was killed';
      if (event.outcome === 'interrupted') return `was interrupted ${took}`;
      if (event.outcome === 'failed') return `failed ${took}: ${message} [${code}]`;
      return `ended with status ${status} ${took}${why}`;
    }
  }
}
