import { fc, testProp } from '@fast-check/ava';
import test from 'ava';
import { readStart } from '../../src/daemon/frames.ts';

/** A start as the client writes it. */
function start(argv: readonly string[], environment: readonly string[], cwd: string): Buffer {
  const u32 = (value: number) => Buffer.from(Uint32Array.of(value).buffer);
  const texts = (all: readonly string[]) => [u32(all.length), ...all.map((one) => `${one}\0`)];
  const parts = [u32(0o27), Buffer.of(5), u32(24), u32(80), u32(1234)];
  const own = ['/home/a/.config/kiln.yaml\0', u32(0), 'defaults: {}\0'];
  const rest = [...texts(argv), ...texts(environment), `${cwd}\0`, ...own];
  return Buffer.concat([...parts, ...rest.map((part) => Buffer.from(part as string))]);
}

test('a start message is read', (t) => {
  const read = readStart(start(['kiln', 'run', ''], ['A=1', 'A=2', 'odd', 'B=='], '/x'));
  t.like(read, { umask: 0o27, terminals: [true, false, true], rows: 24, columns: 80, cwd: '/x' });
  const own = { file: '/home/a/.config/kiln.yaml', problem: 0, text: 'defaults: {}' };
  t.deepEqual(read.configuration, own);
  t.deepEqual(read.argv, ['kiln', 'run', '']);
  t.deepEqual({ ...read.env }, { A: '1', B: '=' });
});

test('a start message that is cut anywhere, or too long, is refused', (t) => {
  const whole = start(['kiln', 'run'], ['A=1'], '/');
  for (let length = 0; length < whole.length; length++) {
    t.throws(() => readStart(whole.subarray(0, length)), { instanceOf: RangeError });
  }
  t.throws(() => readStart(Buffer.concat([whole, Buffer.of(0)])), { instanceOf: RangeError });
});

testProp(
  'any bytes are a start message or a RangeError',
  [fc.uint8Array({ maxLength: 200 })],
  (t, bytes) => {
    try {
      readStart(Buffer.from(bytes));
      t.pass();
    } catch (error) {
      t.true(error instanceof RangeError);
    }
  },
);
