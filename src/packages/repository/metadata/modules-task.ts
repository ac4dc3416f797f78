/** Confined task `repository-modules`: reads modules.yaml. A task by itself, since nothing else needs a reader of YAML. */
import { writeFileSync } from 'node:fs';
import type { SingleTask } from '../../../host/confine/task.ts';
import { loadNativeCodecs } from '../../rpm/payload/native-codec.ts';
import { ModulesParser } from './modules.ts';
import { readMetadata } from './read-metadata.ts';
import type { MetadataFile } from './repomd-schema.ts';

export interface ModulesInput {
  readonly file: MetadataFile;
}

/** Descriptors are the output and modules.yaml. */
export const task: SingleTask = {
  prepare() {
    loadNativeCodecs();
  },
  async run(value, { fds, emit }) {
    const [output, source] = fds as [number, number];
    const { file } = value as ModulesInput;
    const parser = new ModulesParser();
    for await (const chunk of readMetadata(source, file)) parser.write(chunk);
    writeFileSync(output, JSON.stringify(parser.end()));
    emit([]);
  },
};
