import { PassThrough, Writable } from 'node:stream';
import test from 'ava';
import { pass } from '../../src/host/sockets/back-pressure.ts';

test('frames that wait for one stream share its listeners', async (t) => {
  const [from, got] = [new PassThrough(), [] as string[]];
  const to = new Writable({
    highWaterMark: 1,
    write: (bytes: Buffer, _encoding, done) => {
      got.push(String(bytes));
      setImmediate(done);
    },
  });
  for (let n = 0; n < 30; n++) pass(from, Buffer.from(`${n} `), to);
  t.true(to.listenerCount('drain') <= 2, `${to.listenerCount('drain')} listeners`);
  t.true(from.isPaused());
  await new Promise((resolve) => from.once('resume', resolve));
  t.is(got.join(''), Array.from({ length: 30 }, (_, n) => `${n} `).join(''));
  t.is(to.listenerCount('drain'), 0);
});
