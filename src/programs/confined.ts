/** The list of all work on untrusted bytes. A task's module is loaded late, so that start-up stays short. */
import '../stray-errors.ts';
import { serveConfined } from '../host/confine/child.ts';
import type { TaskTable } from '../host/confine/task.ts';

const tasks: TaskTable = {
  'changes-patch': () => import('../jobs/changes/patch-task.ts'),
  'image-unpack': () => import('../image/archive/unpack-task.ts'),
  'machine-boot': () => import('../sandbox/domain/machine/boot-task.ts'),
  'machine-kernel': () => import('../sandbox/domain/machine/kernel-task.ts'),
  'recipe-script': () => import('../jobs/recipe/script-task.ts'),
  'repository-index': () => import('../packages/repository/metadata/index-task.ts'),
  'repository-modules': () => import('../packages/repository/metadata/modules-task.ts'),
  'repository-signature': () => import('../packages/repository/trust/signature-task.ts'),
  'rpm-read': () => import('../packages/rpm/read-task.ts'),
  'rpm-sign': () => import('../packages/rpm/signature/sign-task.ts'),
  'rpm-unpack': () => import('../packages/rpm/unpack-task.ts'),
  'snapshot-copy': () => import('../snapshot/copy-task.ts'),
  'snapshot-pack': () => import('../snapshot/pack-task.ts'),
  'snapshot-settle': () => import('../snapshot/settle-task.ts'),
  'solver-convert': () => import('../packages/solver/convert-task.ts'),
  'solver-solve': () => import('../packages/solver/solve-task.ts'),
};

// What a task left (timers, handles) must not keep the child alive. The bundle is CommonJS: no top-level await.
serveConfined(tasks).then(
  () => process.exit(),
  (error) => {
    throw error;
  },
);
