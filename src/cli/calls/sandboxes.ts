import { findSandbox } from '../../sandbox/domain/find-sandbox.ts';
import { listSandboxes } from '../../sandbox/domain/list.ts';
import { destroySandbox } from '../../sandbox/domain/sweep.ts';
import type { Answer } from './context.ts';

export const answerListSandboxes: Answer<'ListSandboxes'> = async (_, context) => {
  await using engine = context.openEngine();
  const sandboxes = await listSandboxes(engine.paths, engine);
  return {
    sandboxes: sandboxes.map(({ id, state, record }) => ({
      ...{ id, state, domain: record.domain, created: Math.round(record.created) },
      image: record.image,
      command: record.command ?? [],
    })),
  };
};

export const answerKillSandbox: Answer<'KillSandbox'> = async ({ sandbox }, context) => {
  await using engine = context.openEngine();
  const { id, directory, record } = await findSandbox(engine, sandbox);
  await destroySandbox(engine.paths, directory, record, engine.connect);
  return { id };
};
