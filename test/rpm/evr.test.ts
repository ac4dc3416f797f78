import { fc, testProp } from '@fast-check/ava';
import test, { type ExecutionContext } from 'ava';
import {
  compareEvr,
  compareVersions,
  formatEvr,
  parseEvr,
} from '../../src/packages/rpm/dependency.ts';
import { put, rpm, scratch } from './fixtures.ts';

const PAIRS = 4000;

/** Versions of pieces that matter to the comparison, so that most pairs share a beginning. */
const piece = fc.oneof(
  fc.constantFrom('~', '^', '.', '_', '+', 'a', 'b', 'rc', 'Z', '0', '00', '1', '01', '9'),
  fc.nat(30).map(String),
  fc.constantFrom('99999999999999999999', '100000000000000000000'),
);
const version = fc.array(piece, { minLength: 1, maxLength: 6 }).map((pieces) => pieces.join(''));
const evr = fc
  .tuple(fc.constantFrom('', '0:', '1:', '2:'), version, version)
  .map(([epoch, a, b]) => `${epoch}${a}-${b}`);

/** What rpm says of many pairs, in one call. (What rpm.print collects overflows a buffer of rpm 4.20.) */
async function oracle(t: ExecutionContext, pairs: readonly (readonly string[])[]) {
  const lines = pairs.map((pair) => pair.join(' ')).join('\n');
  const list = put(scratch(t), 'pairs', Buffer.from(lines));
  const print = 'local a, b = l:match("(.*) (.*)"); io.write(rpm.vercmp(a, b), " ")';
  const printed = await rpm('--eval', `%{lua:for l in io.lines("${list}") do ${print} end}`);
  return printed.trim().split(/\s+/).map(Number);
}

for (const [what, strings, compare] of [
  ['versions', version, compareVersions],
  ['EVRs', evr, (a: string, b: string) => compareEvr(parseEvr(a), parseEvr(b))],
] as const) {
  test(`${what} compare as in rpm`, async (t) => {
    const seed = Date.now();
    const pairs = fc.sample(fc.tuple(strings, strings), { numRuns: PAIRS, seed });
    const expected = await oracle(t, pairs);
    t.is(expected.length, PAIRS);
    const wrong = pairs
      .map(([a, b], i) => ({ a, b, ours: compare(a, b), rpm: expected[i] }))
      .filter(({ ours, rpm }) => ours !== rpm);
    t.deepEqual(wrong.slice(0, 5), [], `seed ${seed}`);
  });
}

testProp(
  'comparison is antisymmetric, and gives zero for equal versions',
  [version, version],
  (t, a, b) => {
    t.is(compareVersions(a, b), (0 - compareVersions(b, a)) as -1 | 0 | 1);
    t.is(compareVersions(a, a), 0);
  },
);

test('a missing epoch counts as epoch 0', (t) => {
  t.is(compareEvr(parseEvr('0:2-1'), parseEvr('2-1')), 0);
});

test('an EVR can be read and written', (t) => {
  t.deepEqual(parseEvr('1:2.3-4.el9'), { epoch: 1, version: '2.3', release: '4.el9' });
  t.deepEqual(parseEvr('2.3'), { epoch: null, version: '2.3', release: '' });
  t.is(formatEvr(parseEvr('1:2.3-4.el9')), '1:2.3-4.el9');
});
