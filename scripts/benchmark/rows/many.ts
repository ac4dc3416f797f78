/** Many sandboxes: how soon they are there, and gone again. */
import { startDomain } from '../../../src/sandbox/domain/start-domain.ts';
import { type Bed, KILN } from '../bed.ts';
import { execute } from '../measure.ts';
import type { Row } from '../row.ts';

const MANY = 40;

/** How many libvirt's own side asks for at a time: more are no faster (src/host/libvirt/pool.ts). */
const AT_A_TIME = 8;

async function atATime(work: () => Promise<unknown>): Promise<undefined> {
  let left = MANY;
  const worker = async () => {
    while (left-- > 0) await work();
  };
  await Promise.all(Array.from({ length: AT_A_TIME }, worker));
}

const killAll = async (bed: Bed): Promise<void> => {
  await execute([...KILN, 'kill', '--all'], bed.env);
  await bed.parkNone();
};

const keep = (bed: Bed) =>
  execute([...KILN, 'run', '-r', bed.image, '--keep=1h', '--', 'true'], bed.env);

/** Starts that many as libvirt does it, and gives what ends them. */
async function domains(bed: Bed): Promise<(() => Promise<unknown>)[]> {
  const { paths, connect } = bed.kiln.engine;
  const connection = await connect();
  const ends: (() => Promise<unknown>)[] = [];
  await atATime(async () => {
    const options = { network: 'private', label: { kind: 'auto' } } as const;
    const { domain, lock } = await startDomain(paths, connection, options);
    const started = await domain;
    ends.push(async () => {
      await started.destroy();
      await lock.release();
    });
  });
  return ends;
}

/** Domains of the side that was measured last. */
let left: (() => Promise<unknown>)[] = [];

const destroyLeft = async (): Promise<void> => {
  await Promise.all(left.splice(0).map((end) => end()));
};

export const manyRows: readonly Row[] = [
  {
    id: 'keep-many',
    title: `${MANY} \`kiln run --keep -- true\`, eight at a time, by libvirt’s own starts`,
    goal: { kind: 'ratio', max: 1.5 },
    sides: (bed) => [
      { name: 'kiln run --keep', before: () => killAll(bed), run: () => atATime(() => keep(bed)) },
      {
        name: 'domains started',
        before: async () => {
          await destroyLeft();
          await killAll(bed);
        },
        run: async () => {
          const begun = performance.now();
          left = await domains(bed);
          const time = performance.now() - begun;
          await destroyLeft();
          return time;
        },
      },
    ],
    slow: true,
  },
  {
    id: 'kill-all',
    title: `\`kiln kill --all\` of ${MANY} sandboxes, by libvirt’s own destroys, all at once`,
    goal: { kind: 'ratio', max: 1 },
    sides: (bed) => [
      {
        name: 'kiln kill --all',
        before: async () => {
          await killAll(bed);
          await atATime(() => keep(bed));
        },
        run: () => execute([...KILN, 'kill', '--all'], bed.env),
      },
      {
        name: 'domains destroyed',
        before: async () => {
          await killAll(bed);
          left = await domains(bed);
        },
        run: async () => {
          await destroyLeft();
          return undefined;
        },
      },
    ],
    slow: true,
  },
];
