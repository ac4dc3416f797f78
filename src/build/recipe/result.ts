/** result.json of a recipe's build: that of a run, with the step that failed. */

import type { Result } from '../../result/schema.ts';
import { resultOfFailure, resultOfRun } from '../../run/result.ts';
import type { Timeline } from '../../run/timeline.ts';
import type { RecipeReport, RecipeRequest } from './request.ts';

/** For a build whose steps ran, well or not. */
export function resultOfRecipe(report: RecipeReport, version: string, exitStatus: number): Result {
  const { request, failedStep } = report;
  const result = resultOfRun({ request, version, exitStatus }, report);
  if (failedStep === undefined || result.failure === null) return result;
  const phase = `step ${failedStep.name}`;
  return { ...result, failure: { ...result.failure, phase, lastLines: [...failedStep.lastLines] } };
}

/** For a build that kiln could not bring to its end. */
export function resultOfFailedRecipe(
  asked: RecipeRequest,
  version: string,
  exitStatus: number,
  error: unknown,
  timeline: Timeline,
): Result {
  const request = {
    image: asked.image ?? '',
    argv: ['kiln build', asked.path],
    env: {},
    capAdd: [],
    seccomp: '',
    network: 'private' as const,
    binds: asked.binds ?? [],
    tmpfs: [],
    limits: asked.limits ?? {},
    time: asked.time ?? {},
    copyIn: [],
    artifacts: [],
    caller: asked.caller,
    recipe: { path: asked.path, parameters: Object.keys(asked.parameters ?? {}) },
  };
  const { started, phases, current, failed: phase = current } = timeline;
  return resultOfFailure({ request, version, exitStatus }, { error, started, phases, phase });
}
