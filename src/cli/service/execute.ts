import { defined } from '../../defined.ts';
import { text } from '../../options/kind.ts';
import { row, type ValuesOf } from '../../options/row.ts';
import { ROOTS } from '../../options/rules.ts';
import { EXEC, env, SANDBOX } from '../../options/sandbox.ts';
import type { ExecuteRequest } from '../../sandbox/door/plan.ts';
import { visit } from '../../sandbox/door/visit.ts';
import { readService } from '../../service/lifecycle/store.ts';
import { connectSupervisor, notRunningError } from '../../service/supervisor/supervisor-client.ts';
import { OPEN_SHELL, runAttached } from '../attach.ts';
import { type Caller, hasTerminal } from '../caller/caller.ts';
import { KilnCommand } from '../options/command.ts';

const CONNECT = {
  user: row(text('user'), ROOTS, {
    help: 'run the command as NAME, UID or UID:GID; by default root of the sandbox',
  }),
  workdir: row(text('dir'), ROOTS, { help: SANDBOX.workdir.help }),
  env: env('set an environment variable'),
};

const EXECUTE = { tty: EXEC.tty, ...CONNECT };
type ExecuteOptions = ValuesOf<typeof EXECUTE>;

export function executeCommand(caller: Caller): KilnCommand {
  return new KilnCommand('execute')
    .alias('exec')
    .description('Run a command in a running service; kiln exits with the status of the command.')
    .usage('[options] NAME [--] COMMAND [ARGUMENT…]')
    .argument('<service>', 'the name of the service')
    .argument('<command...>', 'the command and its arguments')
    .rows(EXECUTE, caller)
    .examples(
      'kiln service execute apache1 -- ip addr',
      'kiln service execute db -- mariadb -e "show databases"',
    )
    .action((name: string, argv: string[], options: ExecuteOptions) =>
      execute(name, argv, options, caller),
    );
}

export function connectCommand(caller: Caller): KilnCommand {
  return new KilnCommand('connect')
    .description('Open a shell in a running service.')
    .argument('<service>', 'the name of the service')
    .rows(CONNECT, caller)
    .examples('kiln service connect apache1', 'kiln service connect --user postgres pg')
    .action((name: string, options: ExecuteOptions) => {
      const tty = hasTerminal(caller);
      return execute(name, OPEN_SHELL, { ...options, tty }, caller);
    });
}

async function execute(
  name: string,
  argv: readonly string[],
  options: ExecuteOptions,
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
