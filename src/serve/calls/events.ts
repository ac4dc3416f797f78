import { setTimeout as sleep } from 'node:timers/promises';
import { LOOK, viewerOf } from '../../cli/events.ts';
import { KilnError } from '../../errors.ts';
import { EventReader } from '../../events/read.ts';
import type { Answer } from './context.ts';

/** Events of one reply: what a message has room for. */
const MOST = 1000;

export const answerEvents: Answer<'Events'> = async ({ since, follow = false }, context) => {
  const { call, caller } = context;
  if (follow && !call.head.more) {
    throw new KilnError('E_ARGUMENT', 'follow is for calls with `more`', {
      hint: 'a call without `more` has one reply, with the newest events',
    });
  }
  await using engine = context.openEngine();
  const { paths } = engine;
  const from = since ?? (follow ? Date.now() : 0);
  using reader = new EventReader(paths, { viewer: viewerOf(paths, caller), since: from });
  const read = () => reader.read().map((event) => ({ ...event }));
  let events = read();
  if (!call.head.more) return { events: events.slice(-MOST) };
  for (;;) {
    for (; events.length > MOST; events = events.slice(MOST)) {
      call.reply({ events: events.slice(0, MOST) });
      await call.room();
    }
    if (!follow || call.signal.aborted) return { events };
    if (events.length > 0) call.reply({ events });
    await sleep(LOOK, undefined, { signal: call.signal }).catch(() => undefined);
    events = read();
  }
};
