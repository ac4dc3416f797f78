import { collectIds } from './libsolv/id-queue.ts';
import type { Pointer } from './libsolv/libsolv-types.ts';
import type { Pool } from './libsolv/pool.ts';

/** A problem may rest on thousands of rules; a person reads the first few. */
const MAX_LINES = 50;

/** libsolv's own words for each of the `count` problems of `solver`, most important line first. */
export function describeProblems(pool: Pool, solver: Pointer, count: number): string[][] {
  const problems: string[][] = [];
  for (let problem = 1; problem <= count; problem++) {
    const rules = collectIds((queue) => calls(pool).allProblemRules(solver, problem, queue));
    const lines = rules.map((rule) => ruleText(pool, solver, rule));
    problems.push([...new Set(lines)].slice(0, MAX_LINES));
  }
  return problems;
}

function ruleText(pool: Pool, solver: Pointer, rule: number): string {
  const from: [number] = [0];
  const to: [number] = [0];
  const dependency: [number] = [0];
  const type = calls(pool).ruleInfo(solver, rule, from, to, dependency);
  return calls(pool).ruleText(solver, type, from[0], to[0], dependency[0]);
}

function calls(pool: Pool) {
  return pool.library.solver;
}
