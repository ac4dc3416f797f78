/** A request for a run, and the result of one that has failed. */
import type { RunRequest } from '../../src/jobs/run/request.ts';
import { resultOfFailure } from '../../src/jobs/run/result.ts';
import { usualValues } from '../../src/options/row.ts';
import { SANDBOX } from '../../src/options/sandbox.ts';
import type { Result } from '../../src/result/schema.ts';

export const request: RunRequest = {
  ...usualValues(SANDBOX),
  image: 'i'.repeat(64),
  argv: ['make'],
  env: { TOKEN: 'hush' },
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
