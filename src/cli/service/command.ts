import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { hasSystemd, nameProcess } from '../../host/process/process.ts';
import { flag, text } from '../../options/kind.ts';
import { row, type ValuesOf } from '../../options/row.ts';
import { ROOTS } from '../../options/rules.ts';
import { hostUnitName } from '../../service/definition/host-units.ts';
import {
  deleteService,
  runsAlready,
  startSupervisor,
  stopService,
  stopToRestart,
} from '../../service/lifecycle/start-stop.ts';
import { readService, serviceFiles } from '../../service/lifecycle/store.ts';
import { type ListedService, listServices } from '../../service/list-services.ts';
import { supervise } from '../../service/supervisor/supervise.ts';
import { askSupervisor, notRunningError } from '../../service/supervisor/supervisor-client.ts';
import { unitName } from '../../service/unit/load-unit.ts';
import { suggestion } from '../../suggest.ts';
import type { Caller } from '../caller/caller.ts';
import { KilnCommand } from '../options/command.ts';
import { requireYes } from '../output/agree.ts';
import { forEach, printError } from '../output/errors.ts';
import { cloneCommand, createCommand, setCommand } from './create.ts';
import { connectCommand, executeCommand } from './execute.ts';
import { listCommand, logsCommand, statusCommand } from './look.ts';
import {
  backupCommand,
  installCommand,
  logrotateCommand,
  restoreCommand,
  schemaCommand,
  uninstallCommand,
  upgradeCommand,
} from './upkeep.ts';

const EXAMPLES = `
Examples:
  kiln service create -r debian-apache -u apache2.service --publish 8081:80 apache1
  kiln service start apache1; curl http://127.0.0.1:8081/
  kiln service list
  kiln service execute apache1 -- apachectl -S
  kiln service connect apache1                  open a shell in it
  kiln service logs -f apache1
  kiln service reload --unit apache2.service    all services that run it
  kiln service stop apache1; kiln service delete --volumes apache1

“kiln service COMMAND --help” shows all options; docs/services.md explains them.`;

export function command(caller: Caller): KilnCommand {
  const it = new KilnCommand('service')
    .description('Run long-lived services, each in a sandbox of its own on a shared image.')
    .enablePositionalOptions()
    .addHelpText('after', EXAMPLES);
  const commands = [
    ...[createCommand, cloneCommand, deleteCommand, listCommand, statusCommand, startCommand],
    ...[stopCommand, backupCommand, restoreCommand],
    ...[restartCommand, reloadCommand, connectCommand, executeCommand, logsCommand, setCommand],
    ...[upgradeCommand, logrotateCommand, installCommand, uninstallCommand, schemaCommand],
  ];
  for (const make of commands) it.addCommand(make(caller));
  it.addCommand(superviseCommand(caller), { hidden: true });
  return it;
}

/** How long a reload or a restart may take, ms. */
const PATIENCE = 10 * 60_000;

function startCommand(caller: Caller): KilnCommand {
  return new KilnCommand('start')
    .description('Start services and wait until they are up.')
    .argument('<service...>', 'names of services')
    .addHelpText(
      'after',
      '\nsystemd supervises the services; where no systemd runs, kiln does it in the background.\n\nExamples:\n  kiln service start apache1 apache2',
    )
    .action((names: string[]) => forEach(names, start, caller));
}

async function start(name: string, caller: Caller): Promise<void> {
  await using engine = caller.openEngine();
  const { files, definition } = await readService(engine.paths, name);
  if (await runsAlready(files)) {
    caller.stdout.say(`${name} runs already\n`);
    return;
  }
  const status = await startSupervisor(engine.paths, name, caller.env);
  const failed = status.units.filter(({ state }) => state === 'failed');
  if (failed.length > 0) {
    const reasons = failed.map((unit) => `${unit.name}: ${unit.reason}`).join('; ');
    throw new KilnError('E_SERVICE_FAILED', `${name} is ${status.state}: ${reasons}`, {
      hint: `\`kiln service status ${name}\` shows more; \`kiln service stop ${name}\` ends what runs of it`,
    });
  }
  const ports = definition.publish.map(
    ({ address, host, sandbox }) => `${address}:${host} -> ${sandbox}`,
  );
  const places = [status.address ?? [], ports].flat();
  const where = places.length === 0 ? '' : `, ${places.join(', ')}`;
  const by = hasSystemd() ? hostUnitName(name) : `kiln, process ${status.supervisorPid}`;
  caller.stdout.say(`${name} is ${status.state}${where} (supervised by ${by})\n`);
}

function stopCommand(caller: Caller): KilnCommand {
  return new KilnCommand('stop')
    .description('Stop services: first their units, then all other processes.')
    .argument('<service...>', 'names of services')
    .examples('kiln service stop apache1 apache2')
    .action((names: string[]) => forEach(names, (name) => stop(name, caller), caller));
}

async function stop(name: string, caller: Caller, isRestart = false): Promise<void> {
  await using engine = caller.openEngine();
  const { paths } = engine;
  const ran = await (isRestart
    ? stopToRestart(paths, name)
    : stopService(await serviceFiles(paths, name)));
  caller.stdout.say(`${name} ${ran ? 'is stopped' : 'did not run'}\n`);
}

function unit(help: string) {
  return row(text('unit'), ROOTS, { help });
}

type UnitOption = { readonly unit?: string };

function restartCommand(caller: Caller): KilnCommand {
  return new KilnCommand('restart')
    .description('Restart services, or one unit in them.')
    .argument('<service...>', 'names of services')
    .rows({ unit: unit('restart only this unit; the sandbox stays') })
    .examples('kiln service restart apache1', 'kiln service restart --unit apache2.service apache1')
    .action(async (names: string[], { unit }: UnitOption) => {
      const restart = async (name: string) => {
        await stop(name, caller, true);
        await start(name, caller);
      };
      const restartUnit = async (name: string) =>
        await ask(name, { do: 'restart', ...defined({ unit: unit && unitName(unit) }) }, caller);
      await forEach(names, unit === undefined ? restart : restartUnit, caller);
    });
}

function reloadCommand(caller: Caller): KilnCommand {
  return new KilnCommand('reload')
    .description('Tell services to read their configuration again.')
    .argument('[service...]', 'names of services')
    .rows({ unit: unit('reload only this unit; without names, in every service that runs it') })
    .examples('kiln service reload apache1', 'kiln service reload --unit apache2.service')
    .action(async (names: string[], { unit }: UnitOption, it: KilnCommand) => {
      if (names.length === 0 && unit === undefined)
        it.error('kiln: give the names of services, or --unit');
      const wanted = unit === undefined ? undefined : unitName(unit);
      const chosen = names.length > 0 ? names : await servicesRunning(wanted ?? '', caller);
      const request = { do: 'reload', ...defined({ unit: wanted }) } as const;
      await forEach(chosen, (name) => ask(name, request, caller), caller);
    });
}

async function servicesRunning(unit: string, caller: Caller): Promise<string[]> {
  await using engine = caller.openEngine();
  const listed = await listServices(engine.paths);
  const unitsOf = ({ status }: ListedService) => (status?.units ?? []).map(({ name }) => name);
  const found = listed.filter((service) => unitsOf(service).includes(unit));
  if (found.length > 0) return found.map(({ name }) => name);
  throw new KilnError('E_UNIT', `no running service has the unit ${unit}`, {
    hint: suggestion(unit, listed.flatMap(unitsOf), '`kiln service list` shows their units'),
  });
}

async function ask(
  name: string,
  request: { do: 'reload' | 'restart'; unit?: string },
  caller: Caller,
): Promise<void> {
  await using engine = caller.openEngine();
  const { files } = await readService(engine.paths, name);
  const answer = await askSupervisor<null>(files, request, PATIENCE);
  if (answer === undefined) throw notRunningError(name);
  caller.stdout.say(`${name}: ${request.do === 'reload' ? 'reloaded' : 'restarted'}\n`);
}

const DELETE = {
  volumes: row(flag, ROOTS, {
    help: 'delete their data without asking; needed where there is no terminal',
  }),
  yes: row(flag, ROOTS, { help: 'the same as --volumes', short: 'y' }),
};

function deleteCommand(caller: Caller): KilnCommand {
  return new KilnCommand('delete')
    .description('Delete stopped services with their data: /etc, /var and the log.')
    .argument('<service...>', 'names of services')
    .rows(DELETE)
    .examples('kiln service stop apache1; kiln service delete --volumes apache1')
    .action(async (names: string[], options: ValuesOf<typeof DELETE>) => {
      if (options.volumes !== true && options.yes !== true) await confirmDeletion(names, caller);
      const remove = async (name: string) => {
        await using engine = caller.openEngine();
        await deleteService(engine.paths, name);
        caller.stdout.say(`${name} is deleted\n`);
      };
      await forEach(names, remove, caller);
    });
}

/** @throws KilnError E_CONFIRM, E_INTERRUPTED */
async function confirmDeletion(names: readonly string[], caller: Caller): Promise<void> {
  const what = `${names.join(', ')}: /etc, /var and the log would be deleted for good`;
  await requireYes(caller, {
    ...{ what, verb: 'Delete' },
    hint: '--volumes says that you mean it; `kiln service backup` keeps a copy',
  });
}

const SUPERVISE = {
  echo: row(flag, ROOTS, { help: 'write the log to standard output, too' }),
  whileWanted: row(flag, ROOTS, { help: 'end when `kiln service stop` is called', hidden: true }),
};

function superviseCommand(caller: Caller): KilnCommand {
  return new KilnCommand('supervise')
    .description('Run a service in the foreground, until it is stopped or cannot go on.')
    .argument('<service>', 'the name of the service')
    .rows(SUPERVISE)
    .action(async (name: string, options: ValuesOf<typeof SUPERVISE>) => {
      const { echo = false, whileWanted = false } = options;
      nameProcess('kiln-supervisor');
      await using engine = caller.openEngine();
      const onFailure = (error: unknown) => printError(error, caller.stderr);
      caller.exitStatus = await supervise(engine, name, { echo, whileWanted, onFailure });
    });
}
