import type { CallerPaths } from '../../users/caller-paths.ts';

const unopened = () => Promise.reject(new Error('this process opens nothing for this caller'));

/** Of a user in kilnd's own process: what names files is a worker's (src/serve/short.ts). */
export const NO_PATHS: CallerPaths = {
  file: unopened,
  text: unopened,
  content: unopened,
  tree: unopened,
  recipe: unopened,
  folderOf: () => undefined,
  place: unopened,
  results: unopened,
  existing: unopened,
  resultAt: unopened,
  loneResults: unopened,
  resultsTo: () => {
    throw new Error('this process writes nothing for this caller');
  },
  give: unopened,
  write: unopened,
  nameOf: () => undefined,
  renamed: (value) => value,
  deliver: async () => undefined,
  [Symbol.asyncDispose]: async () => undefined,
};
