import { defined } from '../../defined.ts';
import type { ExecOptions } from '../../options/sandbox.ts';
import { env } from '../../options/sandbox.ts';
import { type ExecuteRequest, visit } from '../../sandbox/door/visitors.ts';
import { readService } from '../../service/lifecycle/store.ts';
import { connectSupervisor, notRunningError } from '../../service/supervisor/supervisor-client.ts';
import { runAttached, SHELL } from '../attach.ts';
import { type Caller, hasTerminal } from '../caller/caller.ts';
import { KilnCommand } from '../options/command.ts';
import { RowOption } from '../options/shared-options.ts';

function withOptions(command: KilnCommand, caller: Caller): KilnCommand {
  return command
    .option(
      '--user <user>',
      'run the command as NAME, UID or UID:GID; by default root of the sandbox',
    )
    .option('--workdir <dir>', 'start the command in this directory of the sandbox')
    .addOption(new RowOption('env', env('set an environment variable'), caller));
}

export function executeCommand(caller: Caller): KilnCommand {
  const it = new KilnCommand('execute')
    .alias('exec')
    .description('Run a command in a running service; kiln exits with the status of the command.')
    .usage('[options] NAME [--] COMMAND [ARGUMENT…]')
    .argument('<service>', 'the name of the service')
    .argument('<command...>', 'the command and its arguments')
    .option('-t, --tty', 'give the command a terminal')
    .examples(
      'kiln service execute apache1 -- ip addr',
      'kiln service execute db -- mariadb -e "show databases"',
    );
  return withOptions(it, caller).action((name: string, argv: string[], options: ExecOptions) =>
    execute(name, argv, options, caller),
  );
}

export function connectCommand(caller: Caller): KilnCommand {
  const it = new KilnCommand('connect')
    .description('Open a shell in a running service.')
    .argument('<service>', 'the name of the service')
    .examples('kiln service connect apache1', 'kiln service connect --user postgres pg');
  return withOptions(it, caller).action((name: string, options: ExecOptions) => {
    const tty = hasTerminal(caller);
    return execute(name, SHELL, { ...options, tty }, caller);
  });
}

async function execute(
  name: string,
  argv: readonly string[],
  options: ExecOptions,
  caller: Caller,
): Promise<void> {
  await using engine = caller.openEngine();
  const { files } = await readService(engine.paths, name);
  const connection = await connectSupervisor(files);
  if (connection === undefined) throw notRunningError(name);
  const { TERM } = caller.env;
  const env = { ...(options.tty && TERM ? { TERM } : {}), ...options.env };
  const request: ExecuteRequest = {
    argv,
    env,
    ...defined({ user: options.user, workdir: options.workdir }),
    ...(options.tty === true ? { terminal: caller.windowSize } : {}),
  };
  const { command, leave } = await visit(connection, request, caller.handOver);
  await runAttached(command, leave, caller, options.tty === true);
}
