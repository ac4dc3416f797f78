/** Gives options the values that parameters of calls have, so that there is one way to a request. */

import { InvalidArgumentError } from 'commander';
import type { RunParameters } from '../../api/io-kiln.ts';
import type { OptionCaller } from '../../cli/caller/caller.ts';
import { KilnCommand } from '../../cli/options/command.ts';
import { check, fetchImage } from '../../cli/users/user-guard.ts';
import { KilnError } from '../../errors.ts';
import type { Fields } from '../../options/kind.ts';
import { hostImage } from '../../options/places.ts';
import { optionFromJson, type Rows } from '../../options/row.ts';
import { SANDBOX, type SandboxOptions } from '../../options/sandbox.ts';
import { VARIABLE } from '../../options/texts.ts';
import { type TimeLimits, timeOf } from '../../sandbox/door/supervise.ts';
import type { CallContext } from './context.ts';

/** A hint. */
export const FIELDS = 'docs/reference/api.md leads to what each field is';

/** Gives options the values of a call, by the names that it has for them. @throws KilnError E_ARGUMENT */
export function setOptions(command: KilnCommand, rows: Rows, given: Fields): void {
  for (const [name, row] of Object.entries(rows)) {
    const json = given[name];
    const isNothing = json === undefined || (json === false && !row.kind.negates);
    if (isNothing || (Array.isArray(json) && json.length === 0)) continue;
    try {
      command.setOptionValueWithSource(name, optionFromJson(row, json, name), 'cli');
    } catch (error) {
      if (!(error instanceof InvalidArgumentError)) throw error;
      // How it is written on a command line is nothing to a caller whose numbers are JSON's.
      const what = error.message.replace(/: write .*$/, '');
      throw new KilnError('E_ARGUMENT', `${name}: ${what}`, { hint: FIELDS });
    }
  }
}

/** A command that nobody reads words for. */
export function calledCommand(name: string, rows: Rows, caller: OptionCaller): KilnCommand {
  const command = new KilnCommand(name).exitOverride();
  return command.configureOutput({ writeErr: () => undefined }).rows(rows, caller);
}

/** @throws KilnError E_ARGUMENT for what the command line has no such time for */
export function timeLimits(asked: TimeLimits): TimeLimits {
  const limits = timeOf(asked);
  for (const [name, milliseconds] of Object.entries(limits)) {
    if (milliseconds === undefined || milliseconds > 0) continue;
    throw new KilnError('E_ARGUMENT', `${name}: ${milliseconds} is no time`, {
      hint: 'give milliseconds, 1 or more, or leave it out',
    });
  }
  return limits;
}

/** @throws KilnError E_ARGUMENT for what is no base64: Node would take what it can of it */
export function checkBase64(name: string, text = ''): void {
  const digits = text.replace(/={1,2}$/, '');
  if (digits.length % 4 !== 1 && !/[^A-Za-z0-9+/]/.test(digits)) return;
  throw new KilnError('E_ARGUMENT', `${name}: it is not base64`, { hint: 'bytes are base64' });
}

/** @throws KilnError E_ARGUMENT for a name that no variable has */
export function checkVariables(env: Readonly<Record<string, string>> = {}): void {
  const wrong = Object.keys(env).find((name) => !VARIABLE.test(name));
  if (wrong === undefined) return;
  throw new KilnError('E_ARGUMENT', `env: ${wrong || 'an empty name'} is the name of no variable`, {
    hint: 'letters, digits and _',
  });
}

export async function admittedImage(
  image: string,
  { caller: { user, paths } }: CallContext,
  field = 'image',
): Promise<string> {
  hostImage(field, image);
  if (user === undefined) return image;
  check('image', 'image', image, user, {});
  return await fetchImage(image, paths);
}

/** The image is admitted apart. */
export function sandboxOptions(
  { surroundings, image: _, ...others }: Partial<RunParameters>,
  caller: OptionCaller,
): { readonly options: SandboxOptions; readonly command: KilnCommand } {
  const command = calledCommand('run', SANDBOX, caller);
  const { artifacts = [], resultDirectory } = others;
  if (artifacts.length > 0 && resultDirectory === undefined) {
    throw new KilnError('E_ARGUMENT', 'artifacts: there is no resultDirectory for them', {
      hint: 'name the folder where they go',
    });
  }
  setOptions(command, SANDBOX, { ...surroundings, ...others });
  return { options: command.opts<SandboxOptions>(), command };
}
