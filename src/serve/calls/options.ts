/**
 * Turns parameters of calls into options of command lines, so that there is one table of options and one way to
 * a request.
 */

import { InvalidArgumentError } from 'commander';
import type { RunParameters, Bind as Wanted } from '../../api/io-kiln.ts';
import { KilnCommand } from '../../cli/options/command.ts';
import { addSandboxOptions } from '../../cli/options/sandbox-options.ts';
import { admit, check, fetchImage } from '../../cli/users/user-guard.ts';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { isProfileFile } from '../../options/kinds.ts';
import type { SandboxOptions } from '../../options/sandbox.ts';
import { absoluteTarget, mountTarget, parseSize, VARIABLE } from '../../options/words.ts';
import type { TimeLimits } from '../../sandbox/door/supervise.ts';
import type { WantedBind } from '../../sandbox/policy/specification.ts';
import type { CallContext, OptionCaller } from './methods.ts';

/** A hint. */
export const FIELDS = 'docs/reference/api.md leads to what each field is';

type Value = string | number | boolean | readonly string[] | undefined;

export class OptionSetter {
  readonly #command: KilnCommand;

  constructor(command: KilnCommand) {
    this.#command = command.exitOverride().configureOutput({ writeErr: () => undefined });
  }

  set(values: Readonly<Record<string, Value>>): this {
    for (const [name, value] of Object.entries(values)) {
      if (value === undefined || value === false) continue;
      if (value === true) this.#give(name, true);
      else for (const text of Array.isArray(value) ? value : [value]) this.#parse(name, `${text}`);
    }
    return this;
  }

  #parse(name: string, text: string): void {
    const option = this.#command.options.find((each) => each.attributeName() === name);
    const parse = option?.parseArg;
    const before: unknown = this.#command.getOptionValue(name);
    if (parse === undefined) this.#give(name, text);
    else this.give(name, name, () => parse(text, before));
  }

  give(name: string, field: string, parse: () => unknown): void {
    try {
      this.#give(name, parse());
    } catch (error) {
      if (!(error instanceof InvalidArgumentError)) throw error;
      // How it is written on a command line is nothing to a caller whose numbers are JSON's.
      const what = error.message.replace(/: write .*$/, '');
      throw new KilnError('E_ARGUMENT', `${field}: ${what}`, {
        hint: FIELDS,
      });
    }
  }

  #give(name: string, value: unknown): void {
    this.#command.setOptionValueWithSource(name, value, 'cli');
  }
}

export function time(milliseconds: number | undefined): string | undefined {
  return milliseconds === undefined ? undefined : `${milliseconds}ms`;
}

/** @throws KilnError E_ARGUMENT for what the command line has no such time for */
export function timeLimits({ timeout, stallTimeout }: TimeLimits): TimeLimits {
  for (const [name, milliseconds] of Object.entries(defined({ timeout, stallTimeout }))) {
    if (milliseconds > 0) continue;
    throw new KilnError('E_ARGUMENT', `${name}: ${milliseconds} is no time`, {
      hint: 'give milliseconds, 1 or more, or leave it out',
    });
  }
  return defined({ timeout, stallTimeout });
}

export function hostPath(name: string, path: string): string;
export function hostPath(name: string, path: string | undefined): string | undefined;
export function hostPath(name: string, path: string | undefined): string | undefined {
  if (path === undefined || path.startsWith('/')) return path;
  throw new KilnError('E_ARGUMENT', `${name}: ${path || 'an empty path'} is not an absolute path`, {
    hint: 'a call has no working directory: give the whole path',
  });
}

/** An image is a name or an id, or the path of a recipe or lock. */
export function hostImage(name: string, image: string): string;
export function hostImage(name: string, image: string | undefined): string | undefined;
export function hostImage(name: string, image: string | undefined): string | undefined {
  return image !== undefined && /\/|\.(?:ya?ml|json)$/.test(image) ? hostPath(name, image) : image;
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

type Admitted = Pick<CallContext, 'caller'>;

/**
 * Holds a user's options to the rules of a command, and has files opened, in what `command.opts()` gives.
 * @returns the arguments, with what was opened
 * @throws what admit() throws
 */
export async function admitOptions(
  command: KilnCommand,
  words: string,
  { caller }: Admitted,
  args: readonly string[] = [],
): Promise<readonly string[]> {
  return await admit(command, caller, { words, args }, args);
}

export async function admittedImage(
  image: string,
  { caller: { user } }: Admitted,
  field = 'image',
): Promise<string> {
  hostImage(field, image);
  if (user === undefined) return image;
  check('image', 'image', image, user, {});
  return await fetchImage(image, user);
}

export type WantedSandbox = Partial<Omit<RunParameters, 'argv' | 'image'>>;

export function sandboxOptions(
  wanted: WantedSandbox,
  caller: OptionCaller,
): { readonly options: SandboxOptions; readonly command: KilnCommand } {
  const command = addSandboxOptions(new KilnCommand('run'), caller);
  const { surroundings = {}, env = {}, copyIn = [], artifacts, resultDirectory } = wanted;
  const { binds = [], tmpfs = [], secrets = [], capabilities, seccomp, ...others } = surroundings;
  checkVariables(env);
  const profile = seccomp !== undefined && isProfileFile(seccomp);
  if (artifacts !== undefined && artifacts.length > 0 && resultDirectory === undefined) {
    throw new KilnError('E_ARGUMENT', 'artifacts: there is no resultDirectory for them', {
      hint: 'name the folder where they go',
    });
  }
  const setter = new OptionSetter(command).set({
    ...others,
    capAdd: capabilities,
    seccomp: profile ? hostPath('seccomp', seccomp) : seccomp,
    secret: secrets.map(({ name, file }) => `${name}=${hostPath('secrets', file)}`),
    env: Object.entries(env).map(([name, value]) => `${name}=${value}`),
    workdir: wanted.workdir,
    user: wanted.user,
    timeout: time(wanted.timeout),
    stallTimeout: time(wanted.stallTimeout),
    artifact: artifacts,
    resultdir: hostPath('resultDirectory', resultDirectory),
    keep: time(wanted.keep),
  });
  // A path may have a colon here.
  setter.give('bind', 'binds', () => binds.map(bindOf));
  setter.give('tmpfs', 'tmpfs', () =>
    tmpfs.map(({ target, size }) => ({
      target: mountTarget(target),
      ...(size === undefined ? {} : { bytes: parseSize(`${size}`) }),
    })),
  );
  setter.give('copyIn', 'copyIn', () =>
    copyIn.map(({ source, target }) => ({
      source: hostPath('copyIn', source),
      target: absoluteTarget(target),
    })),
  );
  return { options: command.opts<SandboxOptions>(), command };
}

function bindOf({ source, target, readonly = false, relabel }: Wanted): WantedBind {
  return {
    source: hostPath('binds', source),
    target: mountTarget(target),
    readonly,
    ...defined({ relabel }),
  };
}
