/** What more sandboxes, images and packages cost: each row measures with few, makes many, measures again. */
import { createHash } from 'node:crypto';
import { cp, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { OpenSandbox } from '../../../test/support/kiln.ts';
import { type Bed, KILN } from '../bed.ts';
import { execute, type Figures, interleave, type Side } from '../measure.ts';
import { kilnRun, parked, type Row } from '../row.ts';

/** Runs of each measurement: of a claim, which is short, more. */
const RUNS = { claim: 41, ps: 21, gc: 21 } as const;

const claim = (bed: Bed) => parked(bed, kilnRun(bed, '--', 'true'));

const command = (bed: Bed, ...args: readonly string[]): Side => ({
  name: args.join(' '),
  run: () => execute([...KILN, ...args], bed.env),
});

/** Brings the number of something to `count`. */
type Grow = (bed: Bed, count: number) => Promise<void>;

const sandboxes: OpenSandbox[] = [];

/** Sandboxes that run; none end with them. */
const growSandboxes: Grow = async (bed, count) => {
  while (sandboxes.length < count) {
    const sandbox = await bed.kiln.open({ image: bed.image });
    sandboxes.push(sandbox);
    await sandbox.spawn('sleep', ['infinity']);
  }
  for (const sandbox of sandboxes.splice(count)) await sandbox.close();
};

/** Images of nothing, and as many packages; the bed goes with them. */
const growStore: Grow = async (bed, count) => {
  const { images, packages } = bed.kiln.paths;
  const manifest = JSON.parse(await readFile(join(bed.tree, '../image.json'), 'utf8'));
  const [stored = ''] = await readdir(packages);
  for (let number = (await readdir(images)).length; number < count; number++) {
    const id = createHash('sha256').update(`bench ${number}`).digest('hex');
    const image = join(images, id);
    await mkdir(join(image, 'tree'), { recursive: true });
    await writeFile(join(image, 'contents.json'), '{"inputs":null,"packages":[],"linked":[]}');
    await writeFile(join(image, 'lease'), '');
    await writeFile(join(image, 'owner-0.json'), `{"name":"${id}","private":false}`);
    await writeFile(join(image, 'image.json'), JSON.stringify({ ...manifest, id, name: id }));
    const target = join(packages, id);
    await mkdir(join(target, 'tree'), { recursive: true });
    for (const file of ['package.json', 'header.rpm']) {
      await cp(join(packages, stored, file), join(target, file), { preserveTimestamps: true });
    }
  }
};

interface Growth {
  readonly of: string;
  readonly grow: Grow;
  readonly few: number;
  readonly many: number;
}

const GROWTHS: readonly Growth[] = [
  { of: 'sandboxes', grow: growSandboxes, few: 10, many: 100 },
  { of: 'store', grow: growStore, few: 1000, many: 10_000 },
];

const WHAT = {
  claim,
  ps: (bed: Bed) => command(bed, 'ps'),
  gc: (bed: Bed) => command(bed, 'gc', '--max-age', '4w'),
};
type What = keyof typeof WHAT;

type Measured = Readonly<Record<What, Figures>>;

async function measure(bed: Bed): Promise<Measured> {
  const of = async (what: What) => (await interleave([WHAT[what](bed)], RUNS[what]))[0]!;
  return { claim: await of('claim'), ps: await of('ps'), gc: await of('gc') };
}

/** What was measured with few and with many: once for all rows of a growth. */
const done = new Map<Growth, Promise<readonly [Measured, Measured]>>();

function measureGrowth(bed: Bed, growth: Growth): Promise<readonly [Measured, Measured]> {
  const measuring = async () => {
    await growth.grow(bed, growth.few);
    const few = await measure(bed);
    await growth.grow(bed, growth.many);
    const many = await measure(bed);
    if (growth.grow === growSandboxes) await growSandboxes(bed, 0);
    return [few, many] as const;
  };
  const known = done.get(growth) ?? measuring();
  done.set(growth, known);
  return known;
}

const TITLES: Readonly<Record<What, string>> = {
  claim: '`kiln run -- true`',
  ps: '`kiln ps`',
  gc: '`kiln gc --max-age`',
};

/** Ten times as many may cost ten times as much; a claim nothing, but for the noise. */
const MAX: Readonly<Record<What, number>> = { claim: 1.3, ps: 10, gc: 10 };

export const growthRows: readonly Row[] = GROWTHS.flatMap((growth) =>
  (Object.keys(WHAT) as What[]).map((what): Row => {
    const { of, few, many } = growth;
    const things = of === 'sandboxes' ? 'running sandboxes' : 'images and packages';
    return {
      id: `${of}-${what}`,
      title: `${TITLES[what]}, beside ${many} ${things}, by ${few}`,
      goal: { kind: 'ratio', max: MAX[what] },
      measure: async (bed) => {
        const [before, after] = await measureGrowth(bed, growth);
        return [
          { ...after[what], name: `with ${many}` },
          { ...before[what], name: `with ${few}` },
        ];
      },
    };
  }),
);
