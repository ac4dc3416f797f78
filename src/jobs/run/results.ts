/** Who puts what comes of a run where its caller wants it. */
import type { Collection, CollectRequest } from '../../artifacts/collect.ts';
import type { Owner } from '../../artifacts/destination.ts';
import { writeResult } from '../../report/write.ts';
import type { Result } from '../../result/schema.ts';

export interface Results {
  /** See collectArtifacts(). The list of artifacts, which may be long, may stay with whoever collects. */
  collect(request: CollectRequest): Promise<Collection>;
  /** See writeResult(). Artifacts whose list has stayed there are added. */
  write(directory: string, result: Result, owner: Owner): Promise<void>;
}

/** This process does. */
export const ownResults: Results = {
  // Loaded late: many runs have no artifacts.
  collect: async (request) =>
    (await import('../../artifacts/collect.ts')).collectArtifacts(request),
  write: async (directory, result, owner) => {
    await writeResult(directory, result, owner);
  },
};
