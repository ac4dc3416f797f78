/** What stage 0 of a machine is asked itself, by the channel to the init. */
import { awaitedLater } from '../../../promise.ts';
import type { Channel } from '../../command/channel.ts';
import { factLines } from '../../command/facts.ts';
import { operationError } from '../../command/failures.ts';
import { encodeRequest } from '../../wire/encode.ts';
import type { Answer, AnswerOf, Parts } from '../../wire/table.ts';

/** Below those by which SandboxControl numbers its requests, above those of commands. */
const FIRST_ID = 2 ** 29;

let nextId = FIRST_ID;

export type WiredLimits = Parts<'machine-limits'>;

/** Sets them, and tells what is in force then. @throws KilnError E_SETUP */
export async function setLimits(channel: Channel, limits: WiredLimits): Promise<WiredLimits> {
  const id = nextId++;
  const limited = awaitedLater(answered(channel, id, 'limited'));
  channel.send(
    encodeRequest('limit', [
      { op: 'id', id },
      { op: 'machine-limits', ...limits },
    ]),
  );
  return await limited;
}

/** The namespaces of stage 0, which stand for the host's. After a break of the guest's kernel this may be a lie. */
export async function namespacesAround(channel: Channel): Promise<ReadonlyMap<string, string>> {
  const id = nextId++;
  const told = awaitedLater(answered(channel, id, 'machine-facts'));
  channel.send(encodeRequest('machine', [{ op: 'id', id }]));
  const links = factLines((await told).facts).get('ns') ?? [];
  return new Map(links.map((link) => [link.slice(0, link.indexOf(':')), link]));
}

function answered<A extends 'limited' | 'machine-facts'>(
  channel: Channel,
  id: number,
  type: A,
): Promise<AnswerOf<A>> {
  const isIt = (answer: Answer): answer is AnswerOf<A> => answer.type === type && answer.id === id;
  return channel.ask((answer) => {
    if (answer.type === 'failed' && answer.id === id) throw operationError(answer);
    return isIt(answer) ? answer : undefined;
  });
}
