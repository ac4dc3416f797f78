import { fc, testProp } from '@fast-check/ava';
import test from 'ava';
import {
  continues,
  encodeError,
  encodeReply,
  firstMessage,
  parseCall,
} from '../../src/daemon/call.ts';

const call = (value: unknown) => parseCall(Buffer.from(JSON.stringify(value)));

test('a call is read, and null means the same as a missing field', (t) => {
  const plain = { method: 'a.B', parameters: {}, more: false, oneway: false, upgrade: false };
  t.deepEqual(call({ method: 'a.B' }), plain);
  const nothing = { parameters: null, more: null, oneway: null, upgrade: null };
  t.deepEqual(call({ method: 'a.B', ...nothing }), plain);
  t.like(call({ method: 'a.B', parameters: { x: 1 }, more: true }), {
    parameters: { x: 1 },
    more: true,
  });
  for (const bad of [null, 5, [], {}, { method: 1 }, { method: 'a.B', parameters: [] }]) {
    t.is(call(bad), undefined);
  }
  for (const flag of ['more', 'oneway', 'upgrade'])
    t.is(call({ method: 'a.B', [flag]: 1 }), undefined);
});

test('replies end with NUL, and say whether more follow', (t) => {
  const read = (bytes: Buffer) => JSON.parse(firstMessage(bytes)?.toString() ?? '');
  t.deepEqual(read(encodeReply({ a: 1 })), { parameters: { a: 1 } });
  t.deepEqual(read(encodeReply({ a: 1 }, true)), { continues: true, parameters: { a: 1 } });
  t.deepEqual(read(encodeError('a.E', { b: 2 })), { error: 'a.E', parameters: { b: 2 } });
  t.true(continues(encodeReply({}, true)));
  t.false(continues(encodeReply({ continues: true })));
  t.false(continues(encodeError('a.E')));
});

testProp(
  'any bytes are read as a call, or as none',
  [fc.uint8Array({ maxLength: 300 })],
  (t, bytes) => {
    const found = parseCall(Buffer.from(bytes));
    t.true(found === undefined || typeof found.method === 'string');
  },
);

testProp('any JSON is read as a call, or as none', [fc.json()], (t, text) => {
  const found = parseCall(Buffer.from(text));
  t.true(found === undefined || typeof found.method === 'string');
});
