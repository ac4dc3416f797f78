/** Reads what an image's kernel and its lists of modules say, in a confined child: {@link findImageKernel}. */
import { readFileSync } from 'node:fs';
import type { SingleTask } from '../../../host/confine/task.ts';
import { readInto } from '../../../host/files/content.ts';
import { releaseOf, START } from './kernel.ts';
import { ModuleTable } from './modules.ts';

export const task: SingleTask = {
  run(_input, { fds, emit }) {
    const [image = -1, builtin = -1, dependencies = -1] = fds;
    const release = releaseOf(readInto(Buffer.alloc(START), image, 0)) ?? null;
    const text = (fd: number) => readFileSync(fd, 'utf8');
    const table = new ModuleTable(text(builtin), text(dependencies));
    emit({ release, lacking: table.lacking(), ...table.wanted() });
  },
};
