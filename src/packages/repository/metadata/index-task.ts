/** Confined task `repository-index`: reads the small XML files that say what a repository is. */
import { z } from 'zod';
import type { SingleTask } from '../../../host/confine/task.ts';
import { parseMetalink } from '../transport/parse-metalink.ts';
import { parseRepomd } from './parse-repomd.ts';

export const indexInputSchema = z.strictObject({
  kind: z.enum(['metalink', 'repomd']),
  text: z.string(),
});

export const task: SingleTask = {
  run(input, { emit }) {
    const { kind, text } = indexInputSchema.parse(input);
    emit(kind === 'metalink' ? parseMetalink(text) : parseRepomd(text));
  },
};
