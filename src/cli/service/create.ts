import { resolve } from 'node:path';
import { InvalidArgumentError } from 'commander';
import { defined, some } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import type { HeldPath } from '../../host/files/held.ts';
import { isImageName } from '../../image/find.ts';
import { flag, text } from '../../options/kind.ts';
import { size } from '../../options/numbers.ts';
import * as places from '../../options/places.ts';
import { row, type ValuesOf } from '../../options/row.ts';
import { path, ROOTS } from '../../options/rules.ts';
import { allowHost, allowHostWrite, env, image, quiet, SANDBOX } from '../../options/sandbox.ts';
import { knownKeys } from '../../recipe/problem.ts';
import { formatLabel } from '../../sandbox/policy/label-request.ts';
import type { WantedBind } from '../../sandbox/policy/specification.ts';
import {
  type NetworkFile,
  oneOrMore,
  type ServiceFile,
  serviceSchema,
} from '../../service/definition/definition.ts';
import { readOldSandbox, readServiceFile } from '../../service/definition/definition-file.ts';
import { changeService } from '../../service/lifecycle/change-service.ts';
import { cloneService, createService } from '../../service/lifecycle/create.ts';
import { instanceFiles, readService } from '../../service/lifecycle/store.ts';
import { suggestion } from '../../suggest.ts';
import type { Caller } from '../caller/caller.ts';
import { KilnCommand } from '../options/command.ts';
import { printWarning } from '../output/errors.ts';
import { printJson } from '../output/print.ts';
import { pickImageFor } from '../output/progress.ts';
import { givenSettings, network, publish, SETTINGS } from './options.ts';

// A supervisor opens it, whenever the service starts.
const { opens: _, ...callersBind } = places.bind;
const laterBind: typeof callersBind = {
  ...callersBind,
  read: (word, from) => {
    const bind = callersBind.read(word, from);
    if ((bind as WantedBind).cow === undefined) return bind;
    throw new InvalidArgumentError('cow is for sandboxes that are kept: a service has volumes.');
  },
};

const serviceFile = places.opened<HeldPath>('file', path('text'));

const CREATE = {
  image: image('use'),
  unit: row(text('unit'), ROOTS, {
    help: 'run this unit of the image, such as apache2.service',
    many: true,
    short: 'u',
  }),
  isolation: row(SANDBOX.isolation.kind, ROOTS, { help: SANDBOX.isolation.help }),
  allowMissing: SANDBOX.allowMissing,
  boot: row(flag, ROOTS, { help: 'boot systemd of the image, and let it run the units' }),
  publish: publish('forward this port of the host to a port of the service'),
  mount: row(laterBind, ROOTS, {
    help: 'bind-mount a host path; z or Z relabels it for SELinux; image shows what is in a file with a file system',
    many: true,
    short: 'm',
    term: 'src:dst[:ro]',
  }),
  tmpfs: SANDBOX.tmpfs,
  guestBinds: SANDBOX.guestBinds,
  env: env('set an environment variable'),
  allowHost: allowHost(),
  allowHostWrite: allowHostWrite(),
  network: network(
    'add an interface on a libvirt network; options: dhcp, or address=IP/PREFIX, gateway=IP and route=NETWORK/PREFIX%GATEWAY; mac=MAC, filter=NAME,filter.VARIABLE=VALUE, peers',
  ),
  hostname: row(text('name'), ROOTS, {
    help: 'give the service this host name; by default its name',
  }),
  user: row(text('user'), ROOTS, { help: 'run the command as this user' }),
  package: row(text('package'), ROOTS, {
    help: 'give the service its own copy of the /etc and /var of this package, too',
    many: true,
    short: 'P',
  }),
  copy: row(flag, ROOTS, {
    help: 'copy the files that the image has in /var of these packages',
    short: 'C',
  }),
  imageSize: row(size, ROOTS, { help: 'keep /var in an ext4 image of this size', short: 'i' }),
  label: { ...SANDBOX.label, short: 's' },
  file: row(serviceFile, ROOTS, {
    help: 'start from this service file, such as recipes/services/apache.yaml',
  }),
  from: row(serviceFile, ROOTS, {
    help: 'take settings from a .sandbox file of virt-sandbox-service',
  }),
  json: row(flag, ROOTS, { help: 'print the new service as JSON' }),
  quiet,
  ...SETTINGS,
};

type CreateOptions = ValuesOf<typeof CREATE>;

const EXAMPLES = `
Examples:
  kiln service create -r debian-apache -u apache2.service --publish 8081:80 apache1
  kiln service create -r debian-mariadb -u mariadb -m /srv/backup:/backup --memory 1G db
  kiln service create --file recipes/services/postgresql.yaml pg
  kiln service create --isolation vm -r debian-apache -u apache2 --publish 8082:80 walled
  kiln service create --boot -r debian-systemd -u apache2.service --publish 8081:80 whole
  kiln service create -r debian-minimal --user nobody ticker -- sh -c 'while date; do sleep 9; done'`;

export function createCommand(caller: Caller): KilnCommand {
  const it = new KilnCommand('create')
    .description(
      'Create a service that runs units of an image, or a command, with its own /etc and /var.',
    )
    .usage('-r IMAGE {-u UNIT… NAME | NAME -- COMMAND…}')
    .argument('[name]', 'the name: small letters, digits and dashes')
    .argument('[command...]', 'a command to run instead of units')
    .rows(CREATE, caller)
    .addHelpText('after', EXAMPLES);
  return it.action((name: string | undefined, argv: string[], options: CreateOptions) =>
    create(name, argv, options, it, caller),
  );
}

async function create(
  givenName: string | undefined,
  argv: string[],
  options: CreateOptions,
  it: KilnCommand,
  caller: Caller,
): Promise<void> {
  const { from, file: named } = options;
  const old = from === undefined ? undefined : await readOldSandbox(from);
  const name = givenName ?? old?.name ?? it.error('kiln: give the service a name');
  const model = named === undefined ? undefined : await readServiceFile(named);
  await using engine = caller.openEngine({ allowHost: options.allowHost });
  const wanted = options.image ?? model?.image;
  if (wanted === undefined) it.error('kiln: say which image the service has: -r IMAGE');
  await using image = await pickImageFor(caller, engine, wanted);
  const file: ServiceFile = {
    ...model,
    // A supervisor reads the path elsewhere, so make it absolute.
    image: isImageName(wanted) ? wanted : resolve(wanted),
    ...old?.file,
    ...settings(options, argv),
  };
  if (old?.bootTarget !== undefined && !file.boot && file.units === undefined) {
    it.error(
      `kiln: it booted a systemd into ${old.bootTarget}: say which units run (-u), or boot one (--boot)`,
    );
  }
  const begin = {
    copy: options.copy ?? false,
    ...defined({ imageSize: options.imageSize }),
  };
  const { files, units, owners } = await createService(engine.paths, name, file, image, begin);
  if (options.json === true) {
    printJson(caller.stdout, { name, file: files.definition, units, owners });
    return;
  }
  // A systemd in the sandbox supports every setting.
  for (const unit of options.boot === true || model?.boot === true ? [] : units) {
    for (const warning of unit.warnings) {
      const message = `${unit.name}: ${warning}`;
      printWarning({ code: 'unit-setting', message }, caller.stderr);
    }
  }
  caller.stdout.say(`${name}: ${files.definition}\n`);
  for (const { package: owner, paths } of owners) {
    caller.stdout.say(`  ${owner}: ${paths.join(', ') || 'nothing below /etc or /var'}\n`);
  }
}

function settings(options: CreateOptions, argv: string[]): Partial<ServiceFile> {
  const { unit, user, hostname, env, network, mount, tmpfs, label, allowHostWrite } = options;
  return {
    ...defined({
      packages: some(options.package),
      units: some(unit),
      boot: options.boot,
      isolation: options.isolation,
      'allow-missing': some(options.allowMissing),
      command: some(argv),
      user,
      hostname,
      network: oneOrMore<NetworkFile>(network),
      environment: Object.keys(env).length > 0 ? env : undefined,
      mounts: some(mount),
      tmpfs: some(tmpfs),
      'guest-binds': some(options.guestBinds),
      'allow-host-write': allowHostWrite,
      label: label && formatLabel(label),
    }),
    ...givenSettings(options),
  };
}

const CLONE = {
  publish: publish('forward this port of the host to the copy; by default none'),
  network: network(
    'choose the network of the copy; by default that of the original, without fixed address, gateway or MAC',
  ),
};

export function cloneCommand(caller: Caller): KilnCommand {
  return new KilnCommand('clone')
    .description('Create a service as a copy of a stopped one, including its /etc and /var.')
    .argument('<service>', 'the service to copy')
    .argument('<name>', 'the name of the copy')
    .rows(CLONE)
    .examples('kiln service clone apache1 apache2 --publish 8082:80')
    .action(async (from: string, name: string, options: ValuesOf<typeof CLONE>) => {
      await using engine = caller.openEngine();
      const changes = defined({
        publish: some(options.publish),
        network: oneOrMore<NetworkFile>(options.network),
      });
      const left = await cloneService(engine.paths, from, name, changes);
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

const SET = {
  publish: publish('replace all published ports by these'),
  unset: row(text('setting'), ROOTS, { help: 'remove a setting, such as memory', many: true }),
  ...SETTINGS,
};

export function setCommand(caller: Caller): KilnCommand {
  const it = new KilnCommand('set')
    .description('Change settings of a service; new limits apply to a running one at once.')
    .argument('<service>', 'the name of the service')
    .rows(SET)
    .examples(
      'kiln service set apache1 --memory 256M --cpus 0.5',
      'kiln service set apache1 --unset health',
    );
  return it.action(async (name: string, options: ValuesOf<typeof SET>) => {
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
  });
}

function settingName(text: string): keyof ServiceFile {
  const known = knownKeys(serviceSchema, []);
  if (known.includes(text)) return text as keyof ServiceFile;
  throw new KilnError('E_ARGUMENT', `there is no setting ${text}`, {
    hint: suggestion(text, known, `there are ${known.join(', ')}`),
  });
}
