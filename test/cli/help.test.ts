import test from 'ava';
import type { Command } from 'commander';
import { processCaller } from '../../src/cli/caller/process-caller.ts';
import { wholeKiln } from '../../src/cli/commands.ts';
import { helpText } from '../../src/cli/mock/option-table.ts';

const kiln = () => wholeKiln(processCaller);

/** Commands that people call; kiln-mock's help is mock's. */
function* leaves(command: Command): Generator<Command> {
  const subs = command.createHelp().visibleCommands(command);
  if (subs.length === 0) yield command;
  for (const sub of subs) if (!['help', 'mock'].includes(sub.name())) yield* leaves(sub);
}

/** `kiln image build`. */
const nameOf = (command: Command): string =>
  command.parent === null ? command.name() : `${nameOf(command.parent)} ${command.name()}`;

function helpOf(command: Command): string {
  let text = '';
  command.configureOutput({
    writeOut: (more) => {
      text += more;
    },
  });
  command.outputHelp();
  return text;
}

/** Programs and pipes know no width. */
function* pages(command: Command): Generator<readonly [name: string, text: string]> {
  yield [nameOf(command), helpOf(command)];
  for (const sub of command.createHelp().visibleCommands(command)) {
    if (!['help', 'mock'].includes(sub.name())) yield* pages(sub);
  }
}

/** The calls of kiln in a help's examples, without what others make of them. */
function exampleCalls(help: string): string[][] {
  const [, examples = ''] = help.split('\nExamples:\n');
  const lines = examples.replace(/ \\\n +/g, ' ').split('\n');
  const commands = lines.flatMap((line) => line.split(/;|\||#|&&| -- /));
  const calls = commands.map((text) => text.trim()).filter((text) => text.startsWith('kiln '));
  return calls.map((text) =>
    text
      .replace(/ {3,}.*/, '')
      .split(/\s+/)
      .slice(1),
  );
}

test('-q is --quiet and -v is --bind in every command', async (t) => {
  const quiet: string[] = [];
  for (const command of leaves(await kiln())) {
    const help = command.createHelp();
    for (const option of command.options) {
      if (option.short === '-v') t.is(option.long, '--bind', nameOf(command));
      if (option.short !== '-q' && option.long !== '--quiet') continue;
      t.is(option.flags, '-q, --quiet', nameOf(command));
      t.regex(help.optionDescription(option), /^print results, warnings and errors only:/);
      quiet.push(nameOf(command));
    }
  }
  t.deepEqual(quiet, [
    ...['kiln run', 'kiln shell', 'kiln snapshot ls', 'kiln build', 'kiln image build'],
    'kiln image lock',
    ...['kiln image ls', 'kiln image prune', 'kiln image export', 'kiln service create'],
    ...['kiln service list', 'kiln service upgrade', 'kiln service logrotate', 'kiln ps'],
    ...['kiln stats', 'kiln top', 'kiln park', 'kiln df', 'kiln user ls', 'kiln user show'],
  ]);
});

/** The command that words call, and those of them that are its own. */
function called(root: Command, words: readonly string[]): [Command, readonly string[]] {
  const sub = root.commands.find((each) =>
    [each.name(), ...each.aliases()].includes(words[0] ?? ''),
  );
  return sub === undefined ? [root, words] : called(sub, words.slice(1));
}

test('every command has examples, with commands and options that exist', async (t) => {
  const root = await kiln();
  const commands = [...leaves(root)];
  t.true(commands.length > 30);
  for (const command of commands) {
    // systemd and kiln itself call it, nobody else.
    if (command.name() === 'supervise') continue;
    const calls = exampleCalls(helpOf(command));
    t.notRegex(helpOf(command), /\bbox(es)?\b/i, `${nameOf(command)}: it is called a sandbox`);
    const own = calls.filter((words) => called(root, words)[0] === command);
    t.true(own.length > 0, `${nameOf(command)} has no example`);
    for (const words of calls) {
      const [target, rest] = called(root, words);
      t.is(target.commands.length, 0, `no such command: kiln ${words.join(' ')}`);
      for (const word of rest.filter((each) => /^--?[a-z]/i.test(each))) {
        const [name = ''] = word.split('=');
        const known = target.options.some(({ long, short }) => name === long || name === short);
        t.true(known || name === '--help', `no such option: kiln ${words.join(' ')}`);
      }
    }
  }
});

test('no help is wider than 80 columns', async (t) => {
  const all = [...pages(await kiln()), ['kiln mock', helpText()] as const];
  t.true(all.length > 80);
  for (const [name, text] of all) {
    for (const line of text.split('\n')) t.true(line.length <= 80, `${name}: ${line}`);
  }
});

test('every command, argument and option has a help text', async (t) => {
  for (const command of leaves(await kiln())) {
    const name = nameOf(command);
    t.regex(command.description(), /^[A-Z].*\.$/s, name);
    for (const argument of command.registeredArguments) {
      t.not(argument.description, '', `${name}: ${argument.name()}`);
    }
    for (const option of command.options) t.not(option.description, '', `${name}: ${option.flags}`);
    // That nothing was given is no value.
    t.notRegex(command.helpInformation(), /default:\s+none/, name);
  }
});
