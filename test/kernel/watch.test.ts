import { closeSync } from 'node:fs';
import { constants as os } from 'node:os';
import test from 'ava';
import { addon } from '../../src/host/calls/system-call.ts';
import { unixSocketPair } from '../../src/host/sockets/unix-socket.ts';
import { MSG_DONTWAIT, READABLE, Watch } from '../../src/host/sockets/watch.ts';

test('a watch reports until the end, even if one reads by bytes and the peer failed', async (t) => {
  const [ours, theirs] = unixSocketPair();
  addon().sendMessage(ours, Buffer.from('unread'), [], 0);
  addon().sendMessage(theirs, Buffer.from('abc'), [], 0);
  // unix(7): the other side gets ECONNRESET, where it has read what was sent to it before.
  closeSync(theirs);
  const piece = Buffer.alloc(1);
  const read: (number | string)[] = [];
  await new Promise<void>((resolve) => {
    const watch = new Watch(ours, () => {
      const [length] = addon().receiveMessage(ours, piece, [], 0, MSG_DONTWAIT);
      read.push(length > 0 ? piece.toString() : length);
      if (length > 0) return;
      watch.stop();
      resolve();
    });
    watch.events = READABLE;
  });
  closeSync(ours);
  t.deepEqual(read, ['a', 'b', 'c', -os.errno.ECONNRESET]);
});
