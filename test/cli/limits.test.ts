/** Every option, and every limit of a sandbox, gets from each command line to what is asked of the sandbox. */
import test from 'ava';
import { KilnCommand } from '../../src/cli/options/command.ts';
import { addSandboxOptions, runRequest } from '../../src/cli/options/sandbox-options.ts';
import { addBuildOptions, type BuildOptions } from '../../src/cli/rpmbuild/build-options.ts';
import { buildRequest, refuseUnused } from '../../src/cli/rpmbuild/build-request.ts';
import { addSettingOptions, givenSettings } from '../../src/cli/service/options.ts';
import { ownPath } from '../../src/host/files/held.ts';
import type { SandboxOptions } from '../../src/options/sandbox.ts';
import { limitKeys, limitsOfKeys } from '../../src/recipe/limit-keys.ts';
import { LIMIT_NAMES, LIMITS } from '../../src/sandbox/policy/limits.ts';

const caller = { env: {}, cwd: () => '/', ids: { uid: 0, gid: 0 }, variable: () => undefined };
const VALUE = 2 ** 23;
const GIVEN = LIMIT_NAMES.flatMap((name) => [`--${LIMITS[name].key}`, String(VALUE)]);
const WANTED = Object.fromEntries(LIMIT_NAMES.map((name) => [name, VALUE]));

/** What becomes of them beside the request: the image that is looked for, what its recipe may name, what is said, the folder. */
const BEFORE = ['allowHost', 'image', 'quiet', 'resultdir'];

test('every option of a sandbox reaches the request', (t) => {
  const command = addSandboxOptions(new KilnCommand('run'), caller);
  // --allow-host-network is looked at for the host's network alone.
  command.parse(['--network', 'host', '--allow-host-network'], { from: 'user' });
  const read = new Set<string>();
  const options = new Proxy(command.opts<SandboxOptions>(), {
    get: (target, name, self) => {
      read.add(String(name));
      return Reflect.get(target, name, self);
    },
  });
  runRequest(options, 'image', ['true'], command, caller);
  const names = command.options.map((option) => option.attributeName());
  t.true(names.length > 20);
  t.deepEqual(names.filter((name) => !read.has(name)).sort(), BEFORE);
});

test('kiln run passes on every limit', (t) => {
  const command = addSandboxOptions(new KilnCommand('run'), caller);
  command.parse(GIVEN, { from: 'user' });
  const request = runRequest(command.opts<SandboxOptions>(), 'image', ['true'], command, caller);
  t.deepEqual(request.limits, WANTED);
});

test('kiln build passes on every limit', (t) => {
  const command = addBuildOptions(new KilnCommand('build').argument('[source]'), caller);
  command.parse(['-r', 'image', ...GIVEN, 'a.src.rpm'], { from: 'user' });
  const options = command.opts<BuildOptions>();
  t.notThrows(() => refuseUnused('package', command));
  t.notThrows(() => refuseUnused('recipe', command));
  t.deepEqual(buildRequest(ownPath('/a.src.rpm'), options, command, caller).limits, WANTED);
});

test('service definitions and recipes have every limit', (t) => {
  const command = addSettingOptions(new KilnCommand('set'));
  command.parse(GIVEN, { from: 'user' });
  const settings = givenSettings({ ...command.opts(), publish: [] });
  t.deepEqual(Object.keys(settings).sort(), Object.keys(limitKeys).sort());
  t.deepEqual(limitsOfKeys(settings as Readonly<Record<string, number>>), WANTED);
});
