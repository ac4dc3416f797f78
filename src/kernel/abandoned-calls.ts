/**
 * Native calls on threads of libuv's pool that nobody waits for any more, for who was to answer them
 * hangs. Node joins its threads when it ends: a process with such a call would end no sooner than
 * whoever hangs answers.
 */
import { tryCall } from './system-call.ts';

let abandoned = 0;
let endsHard = false;

/** Notes a call that goes on although nobody waits for it: process.exit() does not wait for it. */
export function abandonCall(call: Promise<unknown>): void {
  abandoned++;
  const end = (): void => {
    abandoned--;
  };
  call.then(end, end);
  if (endsHard) return;
  endsHard = true;
  process.on('exit', (status) => {
    if (abandoned > 0) tryCall('exit_group', status);
  });
}

/** Whether there are such calls: only process.exit() ends this process then. */
export function hasAbandonedCalls(): boolean {
  return abandoned > 0;
}
