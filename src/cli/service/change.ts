import { Command } from 'commander';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { knownKeys, suggest } from '../../recipe/problem.ts';
import { changeService } from '../../service/definition/configuration.ts';
import { type ServiceFile, serviceSchema } from '../../service/definition/definition.ts';
import { instanceFiles } from '../../service/instance-files.ts';
import { cloneService } from '../../service/lifecycle/create.ts';
import { readService } from '../../service/lifecycle/store.ts';
import type { Caller } from '../caller/caller.ts';
import {
  addSettingOptions,
  givenSettings,
  networkOption,
  publishOption,
  repeated,
  type SettingValues,
} from './options.ts';

interface CloneOptions {
  readonly publish: readonly string[];
  readonly network?: NonNullable<ServiceFile['network']>;
}

/** `kiln service clone`. */
export function cloneCommand(caller: Caller): Command {
  return new Command('clone')
    .description('Create a service as a copy of a stopped one, including its /etc and /var.')
    .argument('<service>', 'the service to copy')
    .argument('<name>', 'the name of the copy')
    .addOption(publishOption('forward this port of the host to the copy; by default none'))
    .addOption(
      networkOption(
        'choose the network of the copy; by default that of the original, without fixed address, gateway or MAC',
      ),
    )
    .addHelpText('after', '\nExamples:\n  kiln service clone apache1 apache2 --publish 8082:80')
    .action(async (from: string, name: string, { publish, network }: CloneOptions) => {
      await using engine = caller.openEngine();
      const left = await cloneService(engine.paths, from, name, {
        ...(publish.length === 0 ? {} : { publish: [...publish] }),
        ...defined({ network }),
      });
      caller.stdout.say(`${name}: ${instanceFiles(engine.paths, name).definition}\n`);
      if (left.includes('publish')) {
        caller.stderr.say(
          `kiln: ${name} publishes no port: \`kiln service set ${name} --publish PORT:PORT\`\n`,
        );
      }
      const own = left.filter((key) => key !== 'publish');
      if (own.length > 0) {
        caller.stderr.say(
          `kiln: ${name} has not ${from}’s ${own.join(', ')}: DHCP gives it its own, or \`clone -N\`\n`,
        );
      }
    });
}

interface SetOptions extends SettingValues {
  readonly unset: readonly string[];
}

/** `kiln service set`. */
export function setCommand(caller: Caller): Command {
  const it = new Command('set')
    .description('Change settings of a service; new limits apply to a running one at once.')
    .argument('<service>', 'the name of the service')
    .addOption(publishOption('replace all published ports by these'))
    .addOption(repeated('--unset <setting>', 'remove a setting, such as memory', (text) => text))
    .addHelpText(
      'after',
      '\nExamples:\n  kiln service set apache1 --memory 256M --cpus 0.5\n  kiln service set apache1 --unset health',
    );
  return addSettingOptions(it).action((name: string, options: SetOptions) =>
    set(name, options, it, caller),
  );
}

async function set(name: string, options: SetOptions, it: Command, caller: Caller): Promise<void> {
  await using engine = caller.openEngine();
  const service = await readService(engine.paths, name);
  const given = givenSettings(options);
  const unset = options.unset.map(settingName);
  const both = unset.find((key) => key in given);
  if (both !== undefined) it.error(`kiln: ${both} can be set or removed, not both`);
  if (Object.keys(given).length + unset.length === 0) {
    it.error(
      `kiln: give a setting to change, such as --memory 256M; or edit ${service.files.definition} and restart it`,
    );
  }
  const nothing = Object.fromEntries(unset.map((key) => [key, null]));
  const { inForce, atRestart } = await changeService(service, { ...given, ...nothing });
  if (inForce.length > 0) caller.stdout.say(`in force: ${inForce.join(', ')}\n`);
  if (atRestart.length > 0) {
    caller.stdout.say(`after \`kiln service restart ${name}\`: ${atRestart.join(', ')}\n`);
  }
}

/** A key of service.yaml. Throws E_ARGUMENT. */
function settingName(text: string): keyof ServiceFile {
  const known = knownKeys(serviceSchema, []);
  if (known.includes(text)) return text as keyof ServiceFile;
  const near = suggest(text, known);
  throw new KilnError('E_ARGUMENT', `there is no setting ${text}`, {
    hint: near === undefined ? `there are ${known.join(', ')}` : `did you mean ${near}?`,
  });
}
