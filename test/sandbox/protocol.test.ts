import test from 'ava';
import fc from 'fast-check';
import { KilnError } from '../../src/errors.ts';
import { AnswerDecoder } from '../../src/sandbox/protocol/answer.ts';
import { encodeExec } from '../../src/sandbox/protocol/exec.ts';
import { encodeSetup } from '../../src/sandbox/protocol/setup.ts';

function answer(type: number, fields: readonly (readonly [number, Buffer])[]): Buffer {
  const parts = fields.flatMap(([tag, value]) => {
    const head = Buffer.alloc(8);
    head.writeUInt32LE(tag, 0);
    head.writeUInt32LE(value.length, 4);
    return [head, value];
  });
  const payload = Buffer.concat(parts);
  const head = Buffer.alloc(8);
  head.writeUInt32LE(payload.length, 0);
  head.writeUInt32LE(type, 4);
  return Buffer.concat([head, payload]);
}

const u32 = (value: number) => {
  const buffer = Buffer.alloc(4);
  buffer.writeUInt32LE(value);
  return buffer;
};

test('answers are found however the stream is cut', (t) => {
  const stream = Buffer.concat([
    answer(101, [[6, Buffer.from('ns=x\n')]]),
    answer(104, [
      [1, u32(7)],
      [4, u32(2)],
      [5, Buffer.from('exec')],
    ]),
    answer(105, []),
  ]);
  fc.assert(
    fc.property(fc.array(fc.nat(stream.length), { maxLength: 20 }), (cuts) => {
      const decoder = new AnswerDecoder();
      const places = [0, ...cuts.sort((a, b) => a - b), stream.length];
      const answers = places
        .slice(1)
        .flatMap((end, i) => decoder.push(stream.subarray(places[i], end)));
      return (
        JSON.stringify(answers) ===
        JSON.stringify([
          { type: 'ready', facts: 'ns=x\n' },
          { type: 'failed', id: 7, errno: 2, what: 'exec' },
          { type: 'quiet' },
        ])
      );
    }),
  );
  t.pass();
});

test('whatever an init sends, the decoder answers or refuses, and never grows without bound', (t) => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 20 }), (chunks) => {
      const decoder = new AnswerDecoder();
      try {
        for (const chunk of chunks) decoder.push(Buffer.from(chunk));
      } catch (error) {
        return error instanceof KilnError && error.code === 'E_PROTOCOL';
      }
      return true;
    }),
    { numRuns: 2000 },
  );
  t.throws(() => new AnswerDecoder().push(Buffer.alloc(8, 0xff)), { code: 'E_PROTOCOL' });
});

test('a NUL byte never cuts an argument or a path in two', (t) => {
  const command = {
    id: 1,
    environment: [],
    workdir: '/',
    user: '0',
    capabilities: 0n,
    landlock: [],
    openSockets: false,
    limits: [],
    umask: 0,
  };
  t.throws(() => encodeExec({ ...command, argv: ['a\0b'] }), { code: 'E_ARGUMENT' });
  t.throws(() => encodeSetup([{ op: 'mask', path: '/a\0/b' }]), { code: 'E_ARGUMENT' });
});
