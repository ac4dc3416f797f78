import { Command } from 'commander';
import type { Caller } from './caller/caller.ts';
import { cloneCommand, setCommand } from './service/change.ts';
import { createCommand } from './service/create.ts';
import { connectCommand, executeCommand } from './service/execute.ts';
import { installCommand, uninstallCommand } from './service/install.ts';
import {
  deleteCommand,
  reloadCommand,
  restartCommand,
  startCommand,
  stopCommand,
  superviseCommand,
} from './service/life.ts';
import { listCommand } from './service/list.ts';
import { logsCommand } from './service/logs.ts';
import { logrotateCommand, schemaCommand, upgradeCommand } from './service/upkeep.ts';

const EXAMPLES = `
Examples:
  kiln service create -r debian-apache -u apache2.service --publish 8081:80 apache1
  kiln service start apache1; curl http://127.0.0.1:8081/
  kiln service list
  kiln service execute apache1 -- apachectl -S
  kiln service connect apache1                  open a shell in it
  kiln service logs -f apache1
  kiln service reload --unit apache2.service    all services that run it
  kiln service stop apache1; kiln service delete apache1

“kiln service COMMAND --help” shows all options; docs/services.md explains them.`;

/** `kiln service`. */
export function command(caller: Caller): Command {
  const it = new Command('service')
    .description('Run long-lived services, each in a sandbox of its own on a shared image.')
    .enablePositionalOptions()
    .addHelpText('after', EXAMPLES);
  const commands = [
    createCommand(caller),
    cloneCommand(caller),
    deleteCommand(caller),
    listCommand(caller),
    startCommand(caller),
    stopCommand(caller),
    restartCommand(caller),
    reloadCommand(caller),
    connectCommand(caller),
    executeCommand(caller),
    logsCommand(caller),
    setCommand(caller),
    upgradeCommand(caller),
    logrotateCommand(caller),
    installCommand(caller),
    uninstallCommand(caller),
    schemaCommand(caller),
  ];
  for (const command of commands) it.addCommand(command);
  it.addCommand(superviseCommand(caller), { hidden: true });
  return it;
}
