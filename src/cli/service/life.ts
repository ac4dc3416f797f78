import { join } from 'node:path';
import { Command, Option } from 'commander';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { hasSystemd } from '../../host/libvirt/embedded/systemd.ts';
import { kilnProgram } from '../../host/process/own-node.ts';
import { packageRoot, type StatePaths } from '../../host/state/paths.ts';
import { suggest } from '../../recipe/problem.ts';
import {
  ensureHostUnit,
  hostEnvironment,
  hostUnitName,
  type KilnInvocation,
  systemctl,
} from '../../service/definition/host-units.ts';
import { startInBackground, waitUntilStarted } from '../../service/lifecycle/start.ts';
import { deleteService, isSupervised, stopService } from '../../service/lifecycle/stop.ts';
import { readService, serviceFiles } from '../../service/lifecycle/store.ts';
import { listServices, type ServiceStatus } from '../../service/status.ts';
import { supervise } from '../../service/supervisor/supervise.ts';
import { askSupervisor } from '../../service/supervisor/supervisor-client.ts';
import { unitName } from '../../service/unit/load-unit.ts';
import type { Caller } from '../caller/caller.ts';
import { printError } from '../output/errors.ts';
import { forEach } from './for-each.ts';

/** How long a reload or a restart may take, ms. */
const PATIENCE = 10 * 60_000;

/** `kiln service start`. */
export function startCommand(caller: Caller): Command {
  return new Command('start')
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
  if (await isSupervised(files)) {
    caller.stdout.say(`${name} runs already\n`);
    return;
  }
  const status = await startSupervisor(engine.paths, name, caller);
  const ports = definition.publish.map(
    ({ address, host, sandbox }) => `${address}:${host} -> ${sandbox}`,
  );
  const places = [status.address ?? [], ports].flat();
  const where = places.length === 0 ? '' : `, ${places.join(', ')}`;
  const by = hasSystemd() ? hostUnitName(name) : `kiln, process ${status.supervisorPid}`;
  caller.stdout.say(`${name} is ${status.state}${where} (supervised by ${by})\n`);
}

/** Starts a service under the host's systemd, or in the background on a host without it. */
export async function startSupervisor(
  paths: StatePaths,
  name: string,
  caller: Pick<Caller, 'env'>,
): Promise<ServiceStatus> {
  const service = await readService(paths, name);
  if (await ensureHostUnit(service, hostInvocation(paths, caller))) {
    const since = Date.now();
    const unit = hostUnitName(name);
    let over = false;
    const end = () => {
      over = true;
    };
    // The unit's start waits for the service, which reports its own failures better.
    systemctl('restart', unit).then(end, end);
    return await waitUntilStarted(name, service.files, since, () => over);
  }
  return await startInBackground(name, service.files, supervisorCommand(name));
}

/** A supervisor is idle for weeks, so V8 should use little memory rather than be fast. */
const SPARING = ['--max-semi-space-size=1', '--optimize-for-size'];

/** The command line of this kiln. */
function supervisorCommand(name: string): [string, ...string[]] {
  const command = kilnProgram(['service', 'supervise', '--while-wanted', name], SPARING);
  if (command !== undefined) return command;
  throw new KilnError('E_INSTALLATION', 'kiln does not know its own program', {
    hint: 'run kiln from a checkout or from its installed package',
  });
}

/** How host units call kiln: by a path that stays right after an update. */
export function hostInvocation(paths: StatePaths, caller: Pick<Caller, 'env'>): KilnInvocation {
  return {
    command: [join(packageRoot(), 'bin/kiln-node')],
    env: hostEnvironment(paths, caller.env),
  };
}

/** `kiln service stop`. */
export function stopCommand(caller: Caller): Command {
  return new Command('stop')
    .description('Stop services: first their units, then all other processes.')
    .argument('<service...>', 'names of services')
    .addHelpText('after', '\nExamples:\n  kiln service stop apache1 apache2')
    .action((names: string[]) => forEach(names, stop, caller));
}

async function stop(name: string, caller: Caller): Promise<void> {
  await using engine = caller.openEngine();
  const ran = await stopService(await serviceFiles(engine.paths, name));
  caller.stdout.say(`${name} ${ran ? 'is stopped' : 'did not run'}\n`);
}

/** `kiln service restart`. */
export function restartCommand(caller: Caller): Command {
  return new Command('restart')
    .description('Restart services, or one unit in them.')
    .argument('<service...>', 'names of services')
    .option('--unit <unit>', 'restart only this unit; the sandbox stays')
    .addHelpText(
      'after',
      '\nExamples:\n  kiln service restart apache1\n  kiln service restart --unit apache2.service apache1',
    )
    .action((names: string[], { unit }: { unit?: string }) =>
      forEach(
        names,
        async (name) => {
          if (unit !== undefined) {
            await ask(name, { do: 'restart', unit: unitName(unit) }, caller);
            return;
          }
          await stop(name, caller);
          await start(name, caller);
        },
        caller,
      ),
    );
}

/** `kiln service reload`. */
export function reloadCommand(caller: Caller): Command {
  return new Command('reload')
    .description('Tell services to read their configuration again.')
    .argument('[service...]', 'names of services')
    .option('--unit <unit>', 'reload only this unit; without names, in every service that runs it')
    .addHelpText(
      'after',
      '\nExamples:\n  kiln service reload apache1\n  kiln service reload --unit apache2.service',
    )
    .action(async (names: string[], { unit }: { unit?: string }, it: Command) => {
      if (names.length === 0 && unit === undefined)
        it.error('kiln: give the names of services, or --unit');
      const wanted = unit === undefined ? undefined : unitName(unit);
      const chosen = names.length > 0 ? names : await servicesRunning(wanted ?? '', caller);
      await forEach(
        chosen,
        (name) => ask(name, { do: 'reload', ...defined({ unit: wanted }) }, caller),
        caller,
      );
    });
}

/** Throws E_UNIT if no service has the unit. */
async function servicesRunning(unit: string, caller: Caller): Promise<string[]> {
  await using engine = caller.openEngine();
  const listed = await listServices(engine.paths);
  const running = listed.map(({ name, status }) => ({
    name,
    units: (status?.units ?? []).map((each) => each.name),
  }));
  const found = running.filter(({ units }) => units.includes(unit)).map(({ name }) => name);
  if (found.length > 0) return found;
  const near = suggest(
    unit,
    running.flatMap(({ units }) => units),
  );
  throw new KilnError('E_UNIT', `no running service has the unit ${unit}`, {
    hint: near === undefined ? '`kiln service list` shows their units' : `did you mean ${near}?`,
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
  if (answer === undefined) throw notRunning(name);
  caller.stdout.say(`${name}: ${request.do === 'reload' ? 'reloaded' : 'restarted'}\n`);
}

/** The error for a service that must run for this. */
export function notRunning(name: string): KilnError {
  return new KilnError('E_SERVICE_STOPPED', `${name} does not run`, {
    hint: `\`kiln service start ${name}\` starts it`,
  });
}

/** `kiln service delete`. */
export function deleteCommand(caller: Caller): Command {
  return new Command('delete')
    .description('Delete stopped services with their data.')
    .argument('<service...>', 'names of services')
    .addHelpText('after', '\nExamples:\n  kiln service stop apache1; kiln service delete apache1')
    .action((names: string[]) =>
      forEach(
        names,
        async (name) => {
          await using engine = caller.openEngine();
          await deleteService(engine.paths, name);
          caller.stdout.say(`${name} is deleted\n`);
        },
        caller,
      ),
    );
}

/** `kiln service supervise`: run by the guardian, or by a host unit. */
export function superviseCommand(caller: Caller): Command {
  return new Command('supervise')
    .description('Run a service in the foreground, until it is stopped or cannot go on.')
    .argument('<service>', 'the name of the service')
    .option('--echo', 'write the log to standard output, too')
    .addOption(new Option('--while-wanted', 'end when `kiln service stop` is called').hideHelp())
    .action(async (name: string, options: { echo?: boolean; whileWanted?: boolean }) => {
      const { echo = false, whileWanted = false } = options;
      await using engine = caller.openEngine();
      const how = {
        echo,
        whileWanted,
        onFailure: (error: unknown) => printError(error, caller.stderr),
      };
      caller.exitStatus = await supervise(engine, name, how);
    });
}
