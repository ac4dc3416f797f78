import { runChecks } from '../../doctor/checks.ts';
import { readHost } from '../../doctor/host.ts';
import type { Answer } from './context.ts';

export const answerDoctor: Answer<'Doctor'> = async ({ names = [] }, context) => {
  const { env } = context.caller;
  await using engine = context.openEngine();
  const host = await readHost(env);
  const checks = await runChecks({ paths: engine.paths, env, host }, names);
  return {
    checks: checks.map(({ name, status, found, problem, mend }) => ({
      name,
      status,
      found,
      problem,
      mend,
    })),
  };
};
