/** Every command block of the pages runs, as it stands there. */
import test from 'ava';
import { PATIENCE } from '../support/busybox-state.ts';
import { long } from '../support/long.ts';
import { type Block, commandBlocks, commandsOf, exchanges, pages, pattern } from './blocks.ts';
import { type Desk, openDesk } from './desk.ts';

const all = pages().flatMap(commandBlocks);
const runnable = all.filter(({ notRun }) => notRun === undefined);
let desk: Desk;

test.before(async () => {
  desk = await openDesk();
});
test.after.always(() => desk[Symbol.asyncDispose]());

async function run(blocks: readonly Block[], log: (text: string) => void): Promise<string[]> {
  const failures: string[] = [];
  for (const block of blocks) {
    const started = performance.now();
    await desk.run(block).catch((error: Error) => {
      failures.push(`${block.page}:${block.line}: ${error.message}`);
    });
    log(`line ${block.line}: ${((performance.now() - started) / 1000).toFixed(1)} s`);
  }
  return failures;
}

for (const [page, blocks = []] of Object.entries(Object.groupBy(runnable, (it) => it.page))) {
  const quick = blocks.filter((block) => !block.long);
  if (quick.length > 0) {
    test.serial(`the commands of ${page} print what it shows`, async (t) => {
      t.timeout(600_000 * PATIENCE);
      t.deepEqual(await run(quick, (text) => t.log(text)), []);
    });
  }
  // A block may need what blocks before it made.
  if (quick.length < blocks.length) {
    long(`the commands of ${page} print what it shows, the slow ones as well`, async (t) => {
      t.timeout(1_800_000 * PATIENCE);
      t.deepEqual(await run(blocks, (text) => t.log(text)), []);
    });
  }
}

test('only a few blocks are not run, each for a reason', (t) => {
  const marked = all.filter(({ notRun }) => notRun !== undefined);
  const slow = runnable.filter((block) => block.long);
  t.log(`${runnable.length - slow.length} run, ${slow.length} with --long, ${marked.length} not:`);
  for (const { page, line, notRun } of marked) t.log(`${page}:${line}: ${notRun}`);
  for (const { notRun } of marked) t.regex(notRun ?? '', /\w+ \w+/);
  t.true(runnable.length > marked.length);
});

test('output is compared, except for what differs from run to run', (t) => {
  const [first, second] = exchanges('$ a \\\n> b\n…: kept as 3fa9c1d2e4\n$ c 3fa9c1d2e4\n');
  t.deepEqual(first, { command: 'a \\\nb', output: ['…: kept as 3fa9c1d2e4'] });
  t.deepEqual(second, { command: 'c 3fa9c1d2e4', output: [] });
  const expected = pattern(first?.output ?? []);
  t.is(expected.exec('kiln: kept as 0123456789\n')?.[1], '0123456789');
  t.notRegex('kiln: lost as 0123456789', expected);
  t.notRegex('kiln: kept as 0123456789\nand more', expected);
});

test('commands of a block are told apart as bash does', (t) => {
  const text =
    "# first\na  # one\nb \\\n  c\ncat >x <<'END'\nd\n\nEND\nif e; then\n  f\nfi\ng 'h\ni'\n";
  t.deepEqual(commandsOf(text), [
    'a  # one',
    'b \\\n  c',
    "cat >x <<'END'\nd\n\nEND",
    'if e; then\n  f\nfi',
    "g 'h\ni'",
  ]);
  t.throws(() => commandsOf("a 'b\n"), { message: /without its end/ });
});
