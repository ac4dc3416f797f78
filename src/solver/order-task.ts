/**
 * Confined task `solver-order`: the order in which a given set of package files is to be installed.
 * Descriptors: the files, in the order of their numbers.
 */
import { z } from 'zod';
import type { SingleTask, TaskContext } from '../confine/task.ts';
import { KilnError } from '../errors.ts';
import { IdQueue } from './id-queue.ts';
import { transactionSteps } from './layout.ts';
import { loadLibsolv } from './libsolv.ts';
import { Pool } from './pool.ts';
import { describeProblems } from './problems.ts';
import { packageJob } from './selection.ts';

export const orderInputSchema = z.strictObject({ arch: z.string() });

export const orderOutputSchema = z.discriminatedUnion('kind', [
  /** Numbers of the files. */
  z.strictObject({ kind: z.literal('ordered'), order: z.array(z.int().min(0)) }),
  /** The set is not complete or contradicts itself. */
  z.strictObject({ kind: z.literal('problems'), problems: z.array(z.array(z.string())) }),
]);
export type OrderOutput = z.output<typeof orderOutputSchema>;

export const task: SingleTask = {
  prepare() {
    loadLibsolv();
  },
  run(value, context) {
    context.emit(order(orderInputSchema.parse(value).arch, context));
  },
};

function order(arch: string, { fds }: TaskContext): OrderOutput {
  // With multilib: what is in the set is to be installed, whatever it was built for.
  const pool = new Pool(arch, true);
  const repository = pool.addRepository('packages');
  const ids = fds.map((fd, index) => {
    const id = pool.addPackageFile(repository, fd);
    if (id === 0)
      throw new KilnError('E_RPM_FORMAT', `file ${index} is no package libsolv can read`);
    return id;
  });
  pool.prepare();
  const { solver: calls } = pool.library;
  const solver = calls.create(pool.address);
  using jobs = new IdQueue(ids.flatMap((id) => packageJob(id, false)));
  const count = calls.solve(solver, jobs.raw);
  if (count > 0) return { kind: 'problems', problems: describeProblems(pool, solver, count) };
  const transaction = calls.createTransaction(solver);
  calls.orderTransaction(transaction, 0);
  return { kind: 'ordered', order: transactionSteps(transaction).map((id) => ids.indexOf(id)) };
}
