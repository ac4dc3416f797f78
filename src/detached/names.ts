/** Names of sandboxes and jobs: each means one thing on this host as long as that is there, whoever it belongs to. */
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { KilnError } from '../errors.ts';
import { lockUnlessHeld } from '../host/files/flock.ts';
import type { StatePaths } from '../host/state/paths.ts';
import type { TakenName } from '../jobs/run/run.ts';
import { isOver, listSandboxes } from '../sandbox/domain/sandbox-record.ts';
import { listJobs } from './record.ts';

const NAME = /^[A-Za-z][\w.-]{0,62}$/;

interface Holder {
  readonly kind: 'sandbox' | 'job';
  readonly id: string;
  readonly owner: number | undefined;
}

/** @throws KilnError E_ARGUMENT */
export function checkName(name: string): void {
  if (/^[0-9a-f]+$/i.test(name)) {
    throw new KilnError('E_ARGUMENT', `the name ${name} looks like an id`, {
      hint: 'take a name that has other letters than a to f',
    });
  }
  if (NAME.test(name)) return;
  throw new KilnError('E_ARGUMENT', `${JSON.stringify(name)} is not a valid name`, {
    hint: 'begin with a letter; then letters, digits, dots, dashes and underscores, 63 in all',
  });
}

/**
 * Takes a name for what is about to have a record with it, and keeps others from it until disposed of.
 * @param owner a user who is not root
 * @throws KilnError E_ARGUMENT, E_JOB_NAME
 */
export async function takeName(
  paths: StatePaths,
  owner: number | undefined,
  name: string,
): Promise<TakenName> {
  checkName(name);
  const folder = join(paths.run, 'names');
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const file = join(folder, name);
  // A killed holder's is taken over. Its file goes before its lock, so nobody waits for one that is gone.
  const lock = await lockUnlessHeld(file);
  if (lock === undefined) throw takenError(name, owner, undefined);
  const release = async () => {
    rmSync(file, { force: true });
    await lock.release();
  };
  try {
    const holder = await holderOf(paths, name);
    if (holder !== undefined) throw takenError(name, owner, holder);
    return { name, [Symbol.asyncDispose]: release };
  } catch (error) {
    await release();
    throw error;
  }
}

async function holderOf(paths: StatePaths, name: string): Promise<Holder | undefined> {
  for (const { state, record } of await listJobs(paths, undefined)) {
    if (record.name !== name || (state !== 'running' && state !== 'starting')) continue;
    return { kind: 'job', id: record.id, owner: record.owner };
  }
  for (const { id, state, record } of await listSandboxes(paths, { owner: undefined })) {
    if (record.name === name && !isOver(state)) return { kind: 'sandbox', id, owner: record.owner };
  }
  return undefined;
}

/** A user learns nothing of others but that they are there. */
function takenError(name: string, asks: number | undefined, holder: Holder | undefined): KilnError {
  const isOwn = holder !== undefined && holder.owner === asks;
  if (holder === undefined || (asks !== undefined && !isOwn)) {
    return new KilnError('E_JOB_NAME', `the name ${name} is taken by somebody`, {
      hint: 'take another one',
    });
  }
  const whose = isOwn ? 'you already have' : `user ${holder.owner} already has`;
  return new KilnError('E_JOB_NAME', `${whose} a ${holder.kind} named ${name}: ${holder.id}`, {
    hint: `\`kiln kill ${holder.id}\` ends it; or take another name`,
  });
}
