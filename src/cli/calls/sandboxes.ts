import { findBox } from '../../sandbox/find-box.ts';
import { listBoxes } from '../../sandbox/list.ts';
import { destroyBox } from '../../sandbox/sweep.ts';
import type { Answer } from './context.ts';

export const answerListSandboxes: Answer<'ListSandboxes'> = async (_, context) => {
  await using engine = context.openEngine();
  const boxes = await listBoxes(engine.paths, engine);
  return {
    sandboxes: boxes.map(({ id, state, record }) => ({
      ...{ id, state, domain: record.domain, created: Math.round(record.created) },
      ...(record.image === undefined ? {} : { image: record.image }),
      command: record.command ?? [],
    })),
  };
};

export const answerKillSandbox: Answer<'KillSandbox'> = async ({ sandbox }, context) => {
  await using engine = context.openEngine();
  const { id, directory, record } = await findBox(engine, sandbox);
  await destroyBox(engine.paths, directory, record, engine.connect);
  return { id };
};
