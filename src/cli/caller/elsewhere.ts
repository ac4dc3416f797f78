import type { CallerPaths } from '../../users/caller-paths.ts';
import { RunElsewhere } from './caller.ts';

const elsewhere = () => Promise.reject(new RunElsewhere());

/** Of a user in kilnd's own process, which opens nothing for users: whoever asks gets a process of its own. */
export const ELSEWHERE: CallerPaths = {
  file: elsewhere,
  text: elsewhere,
  content: elsewhere,
  tree: elsewhere,
  recipe: elsewhere,
  folderOf: () => undefined,
  place: elsewhere,
  results: elsewhere,
  existing: elsewhere,
  resultAt: elsewhere,
  loneResults: elsewhere,
  resultsTo: () => {
    throw new RunElsewhere();
  },
  give: elsewhere,
  write: elsewhere,
  nameOf: () => undefined,
  renamed: (value) => value,
  deliver: async () => undefined,
  [Symbol.asyncDispose]: async () => undefined,
};
