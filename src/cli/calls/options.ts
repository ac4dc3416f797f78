/**
 * Turns parameters of calls into options of command lines, so that there is one table of options and one way to
 * a request.
 */

import { type Command, InvalidArgumentError } from 'commander';
import type { Copy, Surroundings, Bind as WantedBind } from '../../api/io-kiln.ts';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { EqualsCommand } from '../options/optional-value.ts';
import { addSandboxOptions, type SandboxOptions } from '../options/sandbox-options.ts';
import { absoluteTarget, mountTarget } from '../options/values.ts';
import type { OptionCaller } from './context.ts';

type Value = string | number | boolean | readonly string[] | undefined;

/** Sets options of a command one by one. */
export class OptionSetter {
  readonly #command: Command;

  /** Nothing is printed; mistakes are thrown. */
  constructor(command: Command) {
    this.#command = command.exitOverride().configureOutput({ writeErr: () => undefined });
  }

  /**
   * Sets options by name, as a person would write them; undefined and false ones stay unset.
   * @throws KilnError E_ARGUMENT
   */
  set(values: Readonly<Record<string, Value>>): this {
    for (const [name, value] of Object.entries(values)) {
      if (value === undefined || value === false) continue;
      if (value === true) this.give(name, true);
      else for (const text of Array.isArray(value) ? value : [value]) this.#parse(name, `${text}`);
    }
    return this;
  }

  #parse(name: string, text: string): void {
    const option = this.#command.options.find((each) => each.attributeName() === name);
    const parse = option?.parseArg;
    const before: unknown = this.#command.getOptionValue(name);
    this.give(name, parse === undefined ? text : named(name, () => parse(text, before)));
  }

  /** Sets an option to a parsed value. */
  give(name: string, value: unknown): void {
    this.#command.setOptionValueWithSource(name, value, 'cli');
  }
}

/** @throws KilnError E_ARGUMENT with the option's name for what `parse` does not take */
function named<Result>(name: string, parse: () => Result): Result {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof InvalidArgumentError)) throw error;
    throw new KilnError('E_ARGUMENT', `${name}: ${error.message}`, {
      hint: 'docs/reference/api.md says what each field is',
    });
  }
}

/** A time of the interface as an option has it. */
export function time(milliseconds: number | undefined): string | undefined {
  return milliseconds === undefined ? undefined : `${milliseconds}ms`;
}

/** A path of the host. @throws KilnError E_ARGUMENT where it depends on a working directory */
export function hostPath(name: string, path: string): string;
export function hostPath(name: string, path: string | undefined): string | undefined;
export function hostPath(name: string, path: string | undefined): string | undefined {
  if (path === undefined || path.startsWith('/')) return path;
  throw new KilnError('E_ARGUMENT', `${name}: ${path} is not an absolute path`, {
    hint: 'a call has no working directory: give the whole path',
  });
}

/** What `kiln run` is told, as a call says it. */
export interface WantedSandbox {
  readonly surroundings?: Surroundings | undefined;
  readonly env?: Readonly<Record<string, string>> | undefined;
  readonly workdir?: string | undefined;
  readonly user?: string | undefined;
  readonly timeout?: number | undefined;
  readonly stallTimeout?: number | undefined;
  readonly copyIn?: readonly Copy[] | undefined;
  readonly artifacts?: readonly string[] | undefined;
  readonly resultDirectory?: string | undefined;
  readonly keep?: number | undefined;
}

/** The options of `kiln run` that a call means. @throws KilnError E_ARGUMENT */
export function sandboxOptions(
  wanted: WantedSandbox,
  caller: OptionCaller,
): { readonly options: SandboxOptions; readonly command: Command } {
  const command = addSandboxOptions(new EqualsCommand('run'), caller);
  const { surroundings = {}, env = {}, copyIn = [], artifacts, resultDirectory } = wanted;
  const { binds = [], tmpfs = [], secrets = [], capabilities, ...others } = surroundings;
  const setter = new OptionSetter(command).set({
    ...others,
    capAdd: capabilities,
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
  setter.give(
    'bind',
    named('binds', () => binds.map(bindOf)),
  );
  setter.give(
    'tmpfs',
    named('tmpfs', () =>
      tmpfs.map(({ target, size = 0 }) => ({ target: mountTarget(target), bytes: size })),
    ),
  );
  setter.give(
    'copyIn',
    named('copyIn', () =>
      copyIn.map(({ source, target }) => ({
        source: hostPath('copyIn', source),
        target: absoluteTarget(target),
      })),
    ),
  );
  return { options: command.opts<SandboxOptions>(), command };
}

function bindOf({
  source,
  target,
  readonly = false,
  relabel,
}: WantedBind): SandboxOptions['bind'][number] {
  return {
    source: hostPath('binds', source),
    target: mountTarget(target),
    readonly,
    ...defined({ relabel }),
  };
}
