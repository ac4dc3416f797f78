/** `kiln --host ssh://USER@HOST[:PORT] COMMAND…`: runs a command on another machine as if it were this one. */
import { PassThrough } from 'node:stream';
import { CommanderError } from 'commander';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { Near } from '../../remote/near.ts';
import { parseAddress } from '../../remote/wire.ts';
import { type Caller, FORWARDED, SERVICE_VARIABLE, type TextInput } from '../caller/caller.ts';
import { parsedCommand, type RemoteCommandLine, withJobFile } from '../commands.ts';
import { exitStatus, printError } from '../output/errors.ts';
import { planRemote } from './plan.ts';

const VARIABLES = [
  ...['TERM', 'NO_COLOR', 'FORCE_COLOR', 'SOURCE_DATE_EPOCH'],
  ...['KILN_BUILDER_ID', 'KILN_SIGN_PASSPHRASE'],
];

/** A third ^C within this time ends the connection at once, milliseconds. */
const IMPATIENCE = 3000;

export async function runRemote(line: RemoteCommandLine, caller: Caller): Promise<void> {
  try {
    await run(line, caller);
  } catch (error) {
    if (!(error instanceof CommanderError)) printError(error, caller.stderr);
    caller.exitStatus = exitStatus(error);
  }
}

async function run({ host, argv }: RemoteCommandLine, caller: Caller): Promise<void> {
  const address = parseAddress(host);
  const command = await parsedCommand(await withJobFile(argv, caller), caller);
  const plan = await planRemote(command, caller);
  const { inputIsTTY, stdout, stderr } = caller;
  const places = [];
  for (const { place, only } of plan.outputs)
    places.push({ folder: await caller.paths.results(place), only });
  let input: TextInput | undefined;
  const near = new Near({
    address,
    start: {
      env: { ...variables(caller), ...plan.env },
      terminals: [inputIsTTY, stdout.isTTY, stderr.isTTY],
      ...caller.windowSize,
      argv: plan.argv,
      outputs: plan.outputs.map(({ name }) => name),
      detaches: plan.detaches,
    },
    places,
    names: plan.names,
    pack: plan.pack,
    // With a terminal at both ends, its keys mean something to what runs there, and nothing here.
    openInput: () => {
      input = caller.readInput({ raw: inputIsTTY && stdout.isTTY });
      return input.stream;
    },
    stdout: plan.says === undefined ? stdout.stream : new PassThrough().resume(),
    stderr: stderr.stream,
  });
  let [interrupts, last] = [0, 0];
  using _signals = caller.onSignal(FORWARDED, (signal) => {
    if (signal === 'SIGINT' || signal === 'SIGTERM') {
      interrupts = Date.now() - last > IMPATIENCE ? 1 : interrupts + 1;
      last = Date.now();
    }
    if (near.hasStarted && interrupts <= 2) near.control({ do: 'signal', signal });
    else {
      const message = 'interrupted; what runs there ends with the connection';
      near.cut(new KilnError('E_INTERRUPTED', message));
    }
  });
  using _resizing = caller.onSignal(['SIGWINCH'], () =>
    near.control({ do: 'resize', ...caller.windowSize }),
  );
  try {
    const status = await near.run();
    if (plan.says !== undefined && status === 0) stdout.say(`${plan.says}\n`);
    caller.exitStatus = status;
  } finally {
    input?.[Symbol.dispose]();
  }
}

function variables(caller: Caller): Record<string, string> {
  const values = VARIABLES.map((name) => [name, caller.variable(name)] as const);
  const { service } = caller;
  const own = service === undefined ? {} : { [SERVICE_VARIABLE]: service };
  return defined({ ...Object.fromEntries(values), ...own }) as Record<string, string>;
}
