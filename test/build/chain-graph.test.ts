/** The order of chains, against tsort; capabilities as rpm writes them. */
import test from 'ava';
import { execa } from 'execa';
import fc from 'fast-check';
import { parseCapabilities, provides, showCapability } from '../../src/jobs/chain/capability.ts';
import { cycleError, edgesOf, findCycles, withoutCycles } from '../../src/jobs/chain/graph.ts';

/** A graph of packages: node `i` requires what its successors provide. */
const graph = fc.integer({ min: 1, max: 12 }).chain((size) =>
  fc.array(fc.uniqueArray(fc.nat(size - 1), { maxLength: 3 }), {
    minLength: size,
    maxLength: size,
  }),
);

function nodesOf(successors: readonly (readonly number[])[]) {
  return successors.map((targets, index) => ({
    name: `p${index}`,
    requires: targets.map((target) => `cap${target} >= 1`),
    provides: parseCapabilities(`cap${index} = 2`),
  }));
}

/** Whether tsort, which prints an order, can. */
async function isAcyclic(successors: readonly (readonly number[])[]): Promise<boolean> {
  const input = successors
    .flatMap((targets, index) => [
      `p${index} p${index}`,
      ...targets.filter((target) => target !== index).map((target) => `p${target} p${index}`),
    ])
    .join('\n');
  return (await execa('tsort', { input, reject: false })).exitCode === 0;
}

test('cycles are found where tsort finds a loop, and breaking them leaves none', async (t) => {
  await fc.assert(
    fc.asyncProperty(graph, async (successors) => {
      const edges = edgesOf(nodesOf(successors));
      const cycles = findCycles(edges);
      t.is(cycles.length === 0, await isAcyclic(successors));
      const broken = withoutCycles(edges, cycles);
      t.deepEqual(findCycles(broken), []);
      // What is in no cycle keeps all it needs.
      for (const [name, needs] of edges) {
        if (cycles.flat().includes(name)) continue;
        t.deepEqual([...(broken.get(name)?.keys() ?? [])], [...needs.keys()]);
      }
    }),
    { numRuns: 60 },
  );
});

test('a long chain is ordered, and the error for a cycle names each dependency', (t) => {
  const long = Array.from({ length: 3000 }, (_, index) => ({
    name: `p${index}`,
    requires: index === 0 ? ['cap2999'] : [`cap${index - 1}`],
    provides: parseCapabilities(`cap${index}`),
  }));
  t.is(findCycles(edgesOf(long))[0]?.length, 3000);
  t.deepEqual(findCycles(edgesOf(long.slice(0, 2999))), []);
  const pair = nodesOf([[1], [0], [0, 2]]);
  const edges = edgesOf(pair);
  const error = cycleError(edges, findCycles(edges));
  t.is(error.code, 'E_CHAIN_CYCLE');
  t.regex(error.message, /p0 needs cap1 >= 1 of p1/);
  t.regex(error.message, /p1 needs cap0 >= 1 of p0/);
  t.notRegex(error.message, /p2/);
});

test('unmet versions and self-provides add no edge', (t) => {
  const edges = edgesOf([
    { name: 'old', requires: [], provides: parseCapabilities('lib = 1') },
    { name: 'new', requires: ['lib >= 2', 'new'], provides: parseCapabilities('new = 1') },
  ]);
  t.is(edges.get('new')?.size, 0);
});

test('capabilities are parsed as specs write them', (t) => {
  const parsed = (text: string) => parseCapabilities(text).map(showCapability);
  t.deepEqual(parsed('pkgconfig(gtk+-3.0) >= 1:3.2-1'), ['pkgconfig(gtk+-3.0) >= 1:3.2-1']);
  t.deepEqual(parsed('(a(x86-64) >= 1 if (b or c(y) = 2))'), ['a(x86-64) >= 1', 'b', 'c(y) = 2']);
  t.deepEqual(parsed('(a with b < 3 unless c)'), ['a', 'b < 3', 'c']);
  t.deepEqual(parsed(''), []);
  t.deepEqual(parsed('a b c'), []);
  t.deepEqual(parsed(`(${'('.repeat(50_000)}`), []);
  const [one, other] = [parseCapabilities('a = 1:1-2')[0]!, parseCapabilities('a >= 1:1')[0]!];
  t.true(provides(one, other));
});
