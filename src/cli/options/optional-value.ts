/**
 * Options with an optional value: `--keep`, `--keep=10m`. The value must follow `=`: commander would take the
 * next word, which may be an argument of the command.
 */
import { Command, type Option } from 'commander';

/** A command whose optional values must follow `=`. */
export class EqualsCommand extends Command {
  constructor(name: string) {
    super(name);
    this.configureHelp({ optionTerm: ({ flags }) => flags.replace(/ \[(.*)\]$/, '[=$1]') });
  }

  override parseOptions(argv: string[]): ReturnType<Command['parseOptions']> {
    return super.parseOptions(withPresets(this.options, argv, this.#passesThrough));
  }

  override passThroughOptions(passThrough = true): this {
    this.#passesThrough = passThrough;
    return super.passThroughOptions(passThrough);
  }

  #passesThrough = false;
}

/** Adds the preset after `=` to each option without a value. Words that are not kiln's stay as they are. */
function withPresets(
  options: readonly Option[],
  argv: readonly string[],
  passesThrough: boolean,
): string[] {
  const words: string[] = [];
  for (let at = 0; at < argv.length; at++) {
    const word = argv[at] ?? '';
    // The rest belongs to the command in the sandbox.
    if (word === '--' || (passesThrough && !/^-./.test(word))) {
      return [...words, ...argv.slice(at)];
    }
    const option = options.find(({ long, short }) => word === long || word === short);
    // commander also reads a [ inside <> as an optional value.
    if (option?.optional && !option.required) words.push(`${option.long}=${option.presetArg}`);
    else words.push(word);
    if (takesNext(options, option, word) && at + 1 < argv.length) words.push(argv[++at] ?? '');
  }
  return words;
}

/** Whether the next word is the option's value: `--image x`, `-r x`, `-qr x`. */
function takesNext(options: readonly Option[], option: Option | undefined, word: string): boolean {
  if (option !== undefined) return option.required;
  if (!/^-[^-]./.test(word)) return false;
  const letters = [...word.slice(1)];
  const first = letters.findIndex(
    (letter) => options.find(({ short }) => short === `-${letter}`)?.required === true,
  );
  return first !== -1 && first === letters.length - 1;
}
