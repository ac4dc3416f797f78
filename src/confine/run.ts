/** Runs work on untrusted bytes in a confined child and hands back what it says, checked. */
import { KilnError } from '../errors.ts';
import { span } from '../trace/trace.ts';
import { ConfinedChild, type ConfinedStart, checked } from './child-process.ts';

export interface ConfinedOptions<Output> extends ConfinedStart {
  /** Turns a message of the child, which is untrusted, into an Output or throws. */
  readonly validate: (value: unknown) => Output;
  /** Open files for the child; they stay open here. */
  readonly fds?: readonly number[];
}

/**
 * Runs a task in a child of its own and yields its messages as they come. The child is dead, and
 * cannot write any more, when the iteration ends, whichever way it ends.
 *
 * @throws the KilnError the task threw; E_CONFINE_START, E_CONFINE_DIED (crash, out of memory, out
 *   of processor time), E_CONFINE_TIMEOUT, E_CONFINE_PROTOCOL (it sent what `validate` refused);
 *   the signal's reason.
 */
export async function* runConfined<Output>(
  options: ConfinedOptions<Output>,
): AsyncGenerator<Output, void, undefined> {
  const { task, fds = [], validate } = options;
  using _ = span(`confined: ${task}`);
  await using child = new ConfinedChild(options, fds);
  for await (const reply of child.replies()) {
    if (reply.type !== 'message') {
      throw new KilnError('E_CONFINE_PROTOCOL', 'a confined child answers what nobody asked');
    }
    yield checked(task, () => validate(reply.value));
  }
}
