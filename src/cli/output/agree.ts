import { KilnError } from '../../errors.ts';
import { type Caller, hasTerminal } from '../caller/caller.ts';

/**
 * Asks at the caller's terminal. @param what what would be done @param verb to do it
 * @throws KilnError E_CONFIRM, E_INTERRUPTED
 */
export async function requireYes(
  caller: Caller,
  { what, verb, hint }: { readonly what: string; readonly verb: string; readonly hint: string },
): Promise<void> {
  if (hasTerminal(caller)) {
    caller.stderr.say(`kiln: ${what}. ${verb}? [y/N] `);
    if (/^\s*y(?:es)?\s*$/i.test(await typedLine(caller))) return;
  }
  throw new KilnError('E_CONFIRM', what, { hint });
}

async function typedLine(caller: Caller): Promise<string> {
  using input = caller.readInput({ raw: false });
  let text = '';
  for await (const chunk of input.stream) {
    text += String(chunk);
    if (text.includes('\n') || text.length > LINE_MAX) break;
  }
  return text.split('\n')[0] ?? '';
}

/** An answer is `y` or `yes`. */
const LINE_MAX = 1000;
