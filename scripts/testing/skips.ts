import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestResult } from './tap.ts';

/** Tests that may be skipped, by the name ava prints, each with the reason. */
export type SkipList = Readonly<Record<string, string>>;

/** Reads test/skip-list.json of the checkout at `top`. */
export function readSkipList(top: string): SkipList {
  return JSON.parse(readFileSync(join(top, 'test/skip-list.json'), 'utf8')) as SkipList;
}

/** What is wrong with the skipped tests of a run, a sentence each; a test may only be skipped by name. */
export function skipProblems(results: readonly TestResult[], list: SkipList): string[] {
  return results
    .filter(({ outcome }) => outcome === 'skipped' || outcome === 'todo')
    .filter(({ name }) => list[name] === undefined)
    .map(({ name, outcome }) => `${outcome}, but not on test/skip-list.json: ${name}`);
}
