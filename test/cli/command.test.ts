import test from 'ava';
import { Command } from 'commander';
import type { Caller } from '../../src/cli/caller/caller.ts';
import { processCaller } from '../../src/cli/caller/process-caller.ts';
import { wholeKiln } from '../../src/cli/commands.ts';
import { KilnCommand, RowOption } from '../../src/cli/options/command.ts';
import { command as buildCommand } from '../../src/cli/rpmbuild/build.ts';
import { command as runCommand } from '../../src/cli/run.ts';
import { createCommand } from '../../src/cli/service/create.ts';
import { connectCommand, executeCommand } from '../../src/cli/service/execute.ts';
import { command as shellCommand } from '../../src/cli/shell.ts';

/** Parses a command line as `kiln` does, and gives the arguments and the options. */
async function parse(command: Command, argv: readonly string[]) {
  let found: { args: unknown; options: Record<string, unknown> } | undefined;
  command.action((args: unknown) => {
    found = { args, options: command.opts() };
  });
  const program = new Command('kiln').enablePositionalOptions().addCommand(command);
  program.exitOverride();
  command.exitOverride().configureOutput({ writeErr: () => undefined });
  await program.parseAsync([command.name(), ...argv], { from: 'user' });
  return found;
}

test('an option with an optional value does not swallow the next word', async (t) => {
  const build = (...argv: string[]) => parse(buildCommand(processCaller), argv);
  const plain = await build('-r', 'I', '--keep', 'x.src.rpm');
  t.deepEqual(plain?.args, ['x.src.rpm']);
  t.is(plain?.options.keep, 3_600_000);
  const valued = await build('--keep=10m', '--enable-network', 'x.src.rpm');
  t.deepEqual(valued?.args, ['x.src.rpm']);
  t.is(valued?.options.keep, 600_000);
  t.deepEqual(valued?.options.networkPhases, ['buildrequires', 'build', 'postinstall']);
  const some = await build('--enable-network=build', 'a', '--', '--keep');
  t.deepEqual(some?.options.networkPhases, ['build']);
  t.deepEqual(some?.args, ['a', '--keep']);
  t.is(some?.options.keep, undefined);
  // A value of another option that looks like this one.
  const value = await build('--target', '--keep', '-qr', '--keep', 'x.src.rpm');
  t.is(value?.options.target, '--keep');
  t.is(value?.options.image, '--keep');
  t.is(value?.options.keep, undefined);
});

test('words after the command of a sandbox are its own', async (t) => {
  const run = (...argv: string[]) => parse(runCommand(processCaller), argv);
  const given = await run('--keep', 'make', '--keep', '-k');
  t.deepEqual(given?.args, ['make', '--keep', '-k']);
  t.is(given?.options.keep, 3_600_000);
  const none = await run('-r', 'x', '--', 'make', '--keep');
  t.deepEqual(none?.args, ['make', '--keep']);
  t.is(none?.options.keep, undefined);
});

test('every command with an optional value parses it as kiln does', (t) => {
  for (const command of [buildCommand, runCommand, shellCommand].map((make) =>
    make(processCaller),
  )) {
    const optional = command.options.filter((option) => option.optional && !option.required);
    t.true(optional.length > 0, command.name());
    t.true(command instanceof KilnCommand, command.name());
    for (const { long, presetArg } of optional) {
      t.truthy(presetArg, `${command.name()} ${long}`);
      t.true(command.helpInformation().includes(`${long}[=`), `${command.name()} ${long}`);
    }
  }
});

function withOptions(command: Command): Command[] {
  return [command, ...command.commands.flatMap(withOptions)];
}

test('every option of every command is a row, so that the guard and --host know it', async (t) => {
  const [top, ...commands] = withOptions(await wholeKiln(processCaller));
  // Neither is given to a command.
  const beside = top?.options.map(({ long }) => long);
  t.deepEqual(beside, ['--version', '--host']);
  t.true(commands.length > 60);
  const options = commands.flatMap((command) =>
    command.options.map((option) => ({ name: `${command.name()} ${option.long}`, option })),
  );
  const without = options.filter(({ option }) => !(option instanceof RowOption));
  t.deepEqual(
    without.map(({ name }) => name),
    [],
  );
});

test('--env NAME takes the variable of the caller, also if that is a client', async (t) => {
  // As a client's caller, it knows its variables by itself only.
  class Client {
    readonly #variables: Readonly<Record<string, string>> = { NAME: 'value' };
    variable(name: string): string | undefined {
      return this.#variables[name];
    }
  }
  const caller = Object.assign(new Client(), { env: {}, cwd: () => '/' }) as unknown as Caller;
  for (const [command, ...argv] of [
    [runCommand(caller), '--env', 'NAME', '--env', 'UNSET', 'true'],
    [createCommand(caller), '--env', 'NAME', '--env', 'UNSET', 'one'],
    [executeCommand(caller), '--env', 'NAME', '--env', 'UNSET', 'one', 'true'],
    [connectCommand(caller), '--env', 'NAME', '--env', 'UNSET', 'one'],
  ] as const) {
    t.deepEqual((await parse(command, argv))?.options.env, { NAME: 'value' }, command.name());
  }
});
