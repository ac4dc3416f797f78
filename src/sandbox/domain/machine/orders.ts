/** What stage 0 of a machine is asked itself, by the channel to the init. */
import { KilnError } from '../../../errors.ts';
import { SyscallError } from '../../../host/calls/libc.ts';
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

/** Those of FIELD_PATTERNS, bytes. */
const PATTERNS_MAX = 3900;

/** @throws KilnError E_MACHINE */
export async function packFiles(channel: Channel, patterns: Buffer, to: number): Promise<void> {
  if (patterns.length > PATTERNS_MAX) {
    throw new KilnError('E_MACHINE', 'there are too many patterns of artifacts for a machine', {
      hint: 'name a folder that has them all',
    });
  }
  const id = nextId++;
  // However long it takes: who waits has a limit of its own.
  const packed = awaitedLater(
    channel.wait((answer) =>
      answer.type === 'done' && answer.id === id ? answer.value : undefined,
    ),
  );
  channel.send(
    encodeRequest('pack', [
      { op: 'id', id },
      { op: 'patterns', patterns },
    ]),
    [to],
  );
  const errno = await packed;
  if (errno === 0) return;
  const why = new SyscallError('pack', errno);
  throw new KilnError('E_MACHINE', 'the machine could not pack the artifacts', {
    hint: 'end what still writes to them before the command ends',
    cause: why,
  });
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
