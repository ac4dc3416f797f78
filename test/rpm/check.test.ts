/** The checks of what a confined child says, held against a schema of the same. */
import test from 'ava';
import fc from 'fast-check';
import { takeIdentity, takePackage } from '../../src/packages/rpm/package.ts';
import { identitySchema, packageSchema } from './schema.ts';

const text = fc.string({ maxLength: 6 });
const count = fc.oneof(fc.nat(5), fc.constantFrom(0, Number.MAX_SAFE_INTEGER, 2 ** 32));
const flag = fc.boolean();
const few = <Value>(one: fc.Arbitrary<Value>) => fc.array(one, { maxLength: 2 });
const orNull = <Value>(one: fc.Arbitrary<Value>) => fc.option(one, { nil: null });

const dependency = fc.record({
  name: text,
  operator: fc.constantFrom('', '<', '<=', '=', '>=', '>', '<>', '<>='),
  version: text,
  flags: count,
});
const script = {
  interpreter: few(text),
  lua: flag,
  body: text,
  expand: flag,
  queryFormat: flag,
  critical: flag,
};
const identity = {
  ...{ name: text, epoch: orNull(count), version: text, release: text, arch: text, os: text },
  ...{ isSource: flag, summary: text, description: text, license: text, group: text, url: text },
  ...{ vendor: text, packager: text, sourceRpm: orNull(text), buildHost: text },
  ...{ buildTime: orNull(count), formatVersion: fc.constantFrom(3, 4, 6) },
  ...{ installedSize: count, packageSize: count },
  headerRange: fc.record({ start: count, end: count }),
  payload: fc.record({
    compressor: fc.constantFrom('none', 'gzip', 'bzip2', 'xz', 'lzma', 'zstd'),
    start: count,
    size: count,
    archiveSize: orNull(count),
  }),
  digests: few(
    fc.record({
      scope: fc.constantFrom('header', 'payload', 'header+payload', 'archive'),
      algorithm: text,
      expected: text,
      actual: orNull(text),
      status: fc.constantFrom('ok', 'bad', 'unsupported', 'unchecked'),
    }),
  ),
  signatures: few(
    fc.record({
      scope: fc.constantFrom('header', 'header+payload'),
      algorithm: text,
      version: count,
      keyId: text,
      created: orNull(count),
      status: fc.constantFrom('ok', 'bad', 'nokey', 'unsupported', 'unchecked'),
      reason: orNull(text),
      signer: orNull(text),
      fingerprint: orNull(text),
    }),
  ),
};
const requirements = few(dependency);
const file = fc.record({
  ...{ path: text, owner: text, group: text, linkTarget: text },
  mode: fc.constantFrom(0o100644, 0o104755, 0o040755, 0o120777, 0o010600, 0o020666),
  flags: fc.subarray(['config', 'doc', 'ghost', 'artifact']),
  ...{ size: count, mtime: count, device: count, inode: count, nlink: count },
  ...{ rdev: count, digest: orNull(text), caps: orNull(text) },
});
const whole = {
  ...identity,
  files: few(file),
  dependencies: fc.record({
    ...{ requires: requirements, provides: requirements, conflicts: requirements },
    ...{ obsoletes: requirements, recommends: requirements, suggests: requirements },
    ...{ supplements: requirements, enhances: requirements, orderWithRequires: requirements },
  }),
  scriptlets: few(
    fc.record({
      kind: fc.constantFrom(
        ...['pretrans', 'prein', 'postin', 'posttrans', 'preuntrans'],
        ...['preun', 'postun', 'postuntrans', 'verify'],
      ),
      ...script,
    }),
  ),
  triggers: few(
    fc.record({
      kind: fc.constantFrom('triggerprein', 'triggerin', 'triggerun', 'triggerpostun'),
      ...script,
      conditions: requirements,
    }),
  ),
  fileTriggers: few(
    fc.record({
      kind: fc.constantFrom('filetriggerin', 'filetriggerun', 'filetriggerpostun'),
      ...script,
      scope: fc.constantFrom('package', 'transaction'),
      priority: count,
      prefixes: few(text),
    }),
  ),
  changelog: few(fc.record({ author: text, date: count, text })),
  fileDigestAlgorithm: text,
};

/** What JSON can hold, near to what is right. */
const other = fc.oneof(
  fc.constantFrom<unknown>(
    null,
    true,
    0,
    -0,
    -1,
    5,
    1.5,
    2 ** 53,
    -(2 ** 53),
    1e300,
    '',
    '0',
    'ok',
  ),
  fc.constantFrom<unknown>('header', '<', 'toString', [], [null], [[]], {}, { length: 0 }),
  fc.jsonValue(),
);

/** Replaces, removes or adds one value somewhere in `value`, which it changes. */
function damage(value: unknown, path: readonly number[], by: unknown, how: number): void {
  let holder = value as Record<string, unknown>;
  for (const step of path) {
    const names = Object.keys(holder);
    const name = names[step % Math.max(names.length, 1)];
    if (name === undefined) return;
    const inside = holder[name];
    if (typeof inside === 'object' && inside !== null && step % 7 !== 0) {
      holder = inside as Record<string, unknown>;
      continue;
    }
    if (how === 0) delete holder[name];
    else if (how === 1 && !Array.isArray(holder)) holder.more = by;
    else holder[name] = by;
    return;
  }
}

const places = fc.array(fc.nat(1000), { minLength: 1, maxLength: 6 });

function outcome(take: () => unknown): { readonly taken?: unknown; readonly refused: boolean } {
  try {
    return { taken: take(), refused: false };
  } catch {
    return { refused: true };
  }
}

for (const { what, shape, take, schema } of [
  { what: 'an identity', shape: identity, take: takeIdentity, schema: identitySchema },
  { what: 'a package', shape: whole, take: takePackage, schema: packageSchema },
]) {
  test(`the quick check of ${what} accepts and refuses what the schema does`, (t) => {
    const right = fc.record(shape as Record<string, fc.Arbitrary<unknown>>);
    const seen = { taken: 0, refused: 0 };
    const agree = (value: unknown) => {
      const sent: unknown = JSON.parse(JSON.stringify(value));
      const ours = outcome(() => take(sent));
      const expected = outcome(() => schema.parse(sent));
      seen[ours.refused ? 'refused' : 'taken'] += 1;
      t.deepEqual(ours, expected);
    };
    fc.assert(fc.property(right, agree), { numRuns: 300 });
    t.is(seen.refused, 0);
    fc.assert(
      fc.property(right, places, other, fc.nat(3), (value, path, by, how) => {
        const copy: unknown = structuredClone(value);
        damage(copy, path, by, how);
        agree(copy);
      }),
      { numRuns: 3000 },
    );
    fc.assert(fc.property(other, agree), { numRuns: 300 });
    t.true(seen.refused > 500 && seen.taken > 500, JSON.stringify(seen));
  });
}

test('a missing field of any object is reported', (t) => {
  const [value] = fc.sample(
    fc
      .record(whole)
      .filter(
        ({ digests, signatures, scriptlets, triggers, fileTriggers, changelog, files, ...rest }) =>
          [digests, signatures, scriptlets, triggers, fileTriggers, changelog, files].every(
            (list) => list.length > 0,
          ) &&
          Object.values(rest.dependencies).every((list) => list.length > 0) &&
          files.every(({ mode }) => mode === 0o120777),
      ),
    { numRuns: 1, seed: 1 },
  );
  let removed = 0;
  const visit = (holder: Record<string, unknown>) => {
    for (const [name, inside] of Object.entries(holder)) {
      if (typeof inside === 'object' && inside !== null) visit(inside as Record<string, unknown>);
      if (Array.isArray(holder)) continue;
      delete holder[name];
      t.throws(() => takePackage(value), { instanceOf: TypeError }, name);
      holder[name] = inside;
      removed += 1;
    }
  };
  visit(value as unknown as Record<string, unknown>);
  t.notThrows(() => takePackage(value));
  t.true(removed > 100, String(removed));
});
