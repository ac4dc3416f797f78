/** A request for a run, and the result of one that has failed. */
import type { RunRequest } from '../../src/jobs/run/request.ts';
import { resultOfFailure } from '../../src/jobs/run/result.ts';
import type { Result } from '../../src/result/schema.ts';

export const request: RunRequest = {
  image: 'i'.repeat(64),
  argv: ['make'],
  env: { TOKEN: 'hush' },
  capAdd: [],
  seccomp: 'default',
  network: 'private',
  binds: [],
  tmpfs: [],
  limits: {},
  time: {},
  copyIn: [],
  artifacts: ['*.o'],
  caller: { uid: 0, gid: 0 },
};

export function failed(error: unknown): Result {
  return resultOfFailure(
    { request, exitStatus: 125, renamed: (value) => value },
    {
      error,
      started: new Date('2026-01-02T03:04:05.678Z'),
      phases: [{ name: 'image', start: 0.5, duration: 12 }],
      phase: 'image',
      lastLines: ['the end'],
    },
  );
}
