/** Forwards a call to a worker: replies in one direction, requests about its command in the other. */
import { deferred } from '../promise.ts';
import type { Call, Control } from './call.ts';
import { Peer } from './peer.ts';
import { firstMessage } from './varlink.ts';

/** The beginning of a worker's message that a request was done; no reply begins so. */
export const CONTROLLED = '{"controlled":';

/**
 * Forwards everything from the worker on `connection` to the caller, and closes the connection. Resolves when
 * the worker ends it; {@link Call.over} tells whether the last reply came.
 */
export async function forwardCall(call: Call, connection: number): Promise<void> {
  const over = deferred<void>();
  const controls: PromiseWithResolvers<void>[] = [];
  /** The worker waits until there is room. */
  const wait = () => {
    peer.paused = true;
    const goOn = () => {
      peer.paused = false;
    };
    call.room().then(goOn, goOn);
  };
  const peer: Peer = new Peer(
    connection,
    {
      data: (bytes) => {
        const message = firstMessage(bytes);
        if (message === undefined) return 0;
        const reply = bytes.subarray(0, message.length + 1);
        if (reply.toString('latin1', 0, CONTROLLED.length) === CONTROLLED) {
          const { controlled } = JSON.parse(message.toString()) as { controlled: boolean };
          const control = controls.shift();
          if (controlled) control?.resolve();
          else control?.reject(call.noProcess());
        } else {
          call.forward(Buffer.from(reply));
          if (!call.hasRoom) wait();
        }
        return reply.length;
      },
      end: () => {
        for (const control of controls.splice(0)) control.reject(call.noProcess());
        over.resolve();
      },
    },
    { trusted: 'everybody' },
  );
  call.onControl(async (control: Control) => {
    if (peer.ended) throw call.noProcess();
    const done = deferred<void>();
    controls.push(done);
    peer.send(Buffer.from(`${JSON.stringify(control)}\0`));
    await done.promise;
  });
  // That tells the worker.
  const gone = () => peer.destroy();
  call.signal.addEventListener('abort', gone);
  if (call.signal.aborted) gone();
  try {
    await over.promise;
  } finally {
    call.signal.removeEventListener('abort', gone);
    call.onControl(undefined);
  }
}
