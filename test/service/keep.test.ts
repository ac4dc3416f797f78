/** Looking after services: status, metrics, deletion that is meant, backup and restore. */
import { existsSync } from 'node:fs';
import { readFile, rename, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { instanceFiles } from '../../src/service/lifecycle/store.ts';
import { type BusyboxState, busyboxState, IMAGE, KILN, MAIN } from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';
import { freePort } from '../support/free-port.ts';

let state: BusyboxState;
let port: number;
const service = (...args: readonly string[]) => state.kiln(['service', ...args]);

test.before(async () => {
  state = await busyboxState();
  port = await freePort();
  const command = ['sh', '-c', 'echo it is up; exec sleep 1000'];
  const options = ['--user', 'root', '-p', `${port}:80`];
  await service('create', '-r', IMAGE, ...options, 'one', '--', ...command);
});
test.after.always(async () => {
  await service('stop', 'one');
  await state[Symbol.asyncDispose]();
});

test.serial(
  'status shows state, since, restarts, memory, ports, units and the last lines',
  async (t) => {
    const before = await service('status', 'one');
    t.is(before.exitCode, 3, String(before.stderr));
    t.regex(String(before.stdout), /^one\n {2}state +created\n/);
    const began = Date.now();
    t.is((await service('start', 'one')).exitCode, 0);
    const text = await eventually(async () => {
      const { stdout } = await service('status', 'one');
      return /it is up/.test(String(stdout)) && String(stdout);
    });
    t.regex(text, /^ {2}state +running$/m);
    t.regex(text, /^ {2}restarts +0$/m);
    t.regex(text, /^ {2}memory +\d+M, peak (?:\d+M|\?)$/m);
    t.true(text.includes(`${port}:80`), text);
    t.regex(text, /^ {2}unit +command\.service active since \d{4}-\d\d-\d\dT/m);
    const shown = await service('status', '--json', '-n', '2', 'one');
    t.is(shown.exitCode, 0);
    const [one] = JSON.parse(String(shown.stdout));
    t.true(Date.parse(one.since) >= began - 2000);
    t.is(one.log.length, 2);
    const none = await service('status', 'noone');
    t.is(none.exitCode, 125);
    t.regex(String(none.stderr), /there is no service noone/);
  },
);

test.serial('metrics of daemon and services are printed, and served on a socket', async (t) => {
  const { stdout: initPid } = await service('list', '--json', 'one');
  const [{ status }] = JSON.parse(String(initPid));
  const lines = String((await state.kiln(['metrics'])).stdout).split('\n');
  const value = (name: string) =>
    Number(lines.find((l) => l.startsWith(`${name} `))?.split(' ')[1]);
  t.is(value('kiln_service_up{service="one"}'), 1);
  t.is(value('kiln_service_restarts_total{service="one"}'), 0);
  t.is(value('kiln_service_start_time_seconds{service="one"}'), status.started / 1000);
  t.true(value('kiln_service_memory_bytes{service="one"}') > 0);
  t.is(value('kiln_sandboxes{state="running"}'), 1);
  for (const line of lines)
    t.regex(line, /^(?:# (?:HELP|TYPE) kiln_\w+ .+|kiln_\w+(?:\{(?:\w+="[^"]*",?)+\})? [\d.]+)$/);
  const socket = join(state.beside, 'metrics.sock');
  const serving = state.kiln(['metrics', '--listen', socket]);
  await eventually(async () => existsSync(socket));
  const answer = await eventually(async () => {
    const asked = ['-sSi', '--unix-socket', socket, 'http://kiln/metrics'];
    return (await execa('curl', asked)).stdout;
  });
  t.regex(answer, /^HTTP\/1\.1 200 OK\r?\ncontent-type: text\/plain; version=0\.0\.4/i);
  t.regex(answer, /^kiln_service_up\{service="one"\} 1$/m);
  serving.kill('SIGTERM');
  await serving;
});

test.serial(
  'a running service is backed up after its hook, and a failure writes nothing',
  async (t) => {
    const archive = join(state.beside, 'running.tar.gz');
    t.regex(
      String((await service('backup', 'one', '-o', archive)).stderr),
      /service one is running[\s\S]*or give --hook/,
    );
    const failing = await service('backup', 'one', '-o', archive, '--hook', 'echo no room; exit 3');
    t.is(failing.exitCode, 125);
    t.regex(String(failing.stderr), /the hook failed with 3[\s\S]*It said: no room$/m);
    const silent = await service('backup', 'one', '-o', archive, '--hook', 'exit 4');
    t.regex(String(silent.stderr), /the hook failed with 4[\s\S]*It said nothing$/m);
    t.false(existsSync(archive));
    const hook = 'mkdir -p /var/dump && echo dumped >/var/dump/all';
    const made = await service('backup', 'one', '-o', archive, '--hook', hook);
    t.is(made.exitCode, 0, String(made.stderr));
    t.is((await execa('tar', ['-xOf', archive, 'var/dump/all'])).stdout, 'dumped');
  },
);

test.serial('a backup of a stopped service comes back whole, and delete asks first', async (t) => {
  await service('stop', 'one');
  const { directory } = instanceFiles(state.paths, 'one');
  const private_ = join(directory, 'var/private');
  await writeFile(private_, 'of user 1000', { mode: 0o600 });
  await execa('chown', ['1000:50', private_]);
  const archive = join(state.beside, 'one.tar.zst');
  await execa('mknod', [join(directory, 'var/device'), 'c', '1', '3']);
  const made = await service('backup', 'one', '-o', archive);
  t.is(made.exitCode, 0, String(made.stderr));
  t.regex(
    String(made.stderr),
    /^kiln: warning: \/var\/device is a device or a socket: left out \[special-file\]$/m,
  );
  t.is((await execa('stat', ['-c', '%a', archive])).stdout, '600');
  const refused = await service('delete', 'one');
  t.is(refused.exitCode, 125);
  t.regex(String(refused.stderr), /would be deleted for good[\s\S]*--volumes/);
  const asked = (answer: string) =>
    execa('script', ['-qefc', `'${KILN}' service delete one`, '/dev/null'], {
      env: state.env,
      input: `${answer}\n`,
      reject: false,
    });
  t.regex((await asked('n')).stdout, /Delete\? \[y\/N\]/);
  t.true(existsSync(directory));
  t.is((await asked('y')).exitCode, 0);
  t.false(existsSync(directory));
  const absent = await service('restore', `${archive}.not`, 'one');
  t.regex(
    String(absent.stderr),
    /there is no .*one\.tar\.zst\.not \[E_\w+\]\n.*kiln service backup/,
  );
  const restored = await service('restore', archive, 'one');
  t.is(restored.exitCode, 0, String(restored.stderr));
  t.is((await execa('stat', ['-c', '%a %u:%g', private_])).stdout, '600 1000:50');
  t.is(await readFile(private_, 'utf8'), 'of user 1000');
  t.is((await service('start', 'one')).exitCode, 0);
  t.regex(
    String((await service('restore', archive, 'one')).stderr),
    /there is a service one already/,
  );
});

test.serial('a link in place of the socket of --listen leads to no file', async (t) => {
  const [socket, moved, victim] = ['swapped.sock', 'moved.sock', 'victim'].map((name) =>
    join(state.beside, name),
  ) as [string, string, string];
  await writeFile(victim, '', { mode: 0o600 });
  // The socket is there for a second before bind(2) returns.
  const slow = ['-D', '-f', '-qq', '-o', '/dev/null', '-e', 'inject=bind:delay_exit=1000000'];
  const line = [process.execPath, MAIN, 'metrics', '--listen', socket];
  const serving = execa('strace', [...slow, ...line], { env: state.env, reject: false });
  const served = new Promise((resolve) => serving.stderr.once('data', resolve));
  await eventually(async () => existsSync(socket));
  await rename(socket, moved);
  await symlink(victim, socket);
  t.regex(String(await served), /metrics are served/);
  serving.kill('SIGTERM');
  await serving;
  t.is((await execa('stat', ['-c', '%a %F', victim])).stdout, '600 regular empty file');
  t.is((await execa('stat', ['-c', '%a %F', moved])).stdout, '660 socket');
  t.regex(
    String((await state.kiln(['metrics', '--listen', join(victim, '../victim')])).stderr),
    /victim exists and is not a socket/,
  );
});

/** Makes an archive of the service's files, which `change` has changed in the working directory. */
async function archiveOf(name: string, change: string): Promise<string> {
  const folder = join(state.beside, name);
  const { directory } = instanceFiles(state.paths, 'one');
  const copy = `mkdir ${folder}; cd ${folder}
    cp -a ${directory}/service.yaml ${directory}/image.json ${directory}/etc ${directory}/var .`;
  await execa('sh', ['-ec', `${copy}\n${change}\ntar -cf ../${name}.tar .`]);
  return `${folder}.tar`;
}

const HOSTILE: readonly (readonly [name: string, change: string, said: RegExp])[] = [
  ['link', 'rm -r etc; ln -s /etc etc', /its etc is not a directory/],
  ['log', 'ln -s / log', /its log is not a directory/],
  // The supervisor writes there, as the host's root.
  ['log-file', 'mkdir log; ln -s /etc/kiln-test log/service.log', /its service\.log is not a file/],
  ['folder', 'rm service.yaml; mkdir service.yaml', /its service\.yaml is not a file/],
  // Root of the service can write to its /etc.
  ['two-names', 'ln service.yaml etc/definition', /its service\.yaml is not a file/],
  ['binds', 'printf "mounts: [{source: /, target: /h}]\\n" >>service.yaml', /\/ is not bound writ/],
  [
    'confirms-itself',
    'printf "allow-host-write: true\\nmounts: [{source: /, target: /h}]\\n" >>service.yaml',
    /\/ is not bound writable[\s\S]*--allow-host-write/,
  ],
  // Not with the path of a folder that is gone.
  [
    'wrong',
    'echo "memory: lots" >>service.yaml',
    /^ {2}wrong\.tar\/service\.yaml:\d+:9: memory: /m,
  ],
];

test.serial('a stranger’s archive leads kiln to no file of the host', async (t) => {
  for (const [name, change, said] of HOSTILE) {
    const made = await service('restore', await archiveOf(name, change), 'two');
    t.is(made.exitCode, 125, name);
    t.regex(String(made.stderr), said, name);
    t.false(existsSync(instanceFiles(state.paths, 'two').directory), name);
  }
  const confirmed = join(state.beside, 'confirms-itself.tar');
  t.is((await service('restore', '--allow-host-write', confirmed, 'two')).exitCode, 0);
  await service('delete', '--yes', 'two');
});

test.serial(
  'restoring an archive takes only modes and owners of /etc and /var from it',
  async (t) => {
    const change = `chmod 777 .; chown 1000:1000 .; chmod 666 service.yaml; chown 1000 service.yaml
    cp /bin/busybox var/as-root; chmod 4755 var/as-root; mknod var/disk b 7 0
    mkdir ../elsewhere; cp ${state.paths.images}/${IMAGE}/image.json ../elsewhere
    printf '{"image":"../../%s/elsewhere"}' "$(basename ${state.beside})" >image.json
    printf 'mounts: [{source: ${state.beside}, target: /beside, readonly: true}]\n' >>service.yaml`;
    const restored = await service('restore', await archiveOf('modes', change), 'two');
    t.is(restored.exitCode, 0, String(restored.stderr));
    const said = String(restored.stderr);
    t.regex(said, /warning: two: .*var\/disk is a block-device: left out \[restored\]/);
    t.true(
      said.includes(`its definition asks for a mount: ${state.beside}:/beside:ro [restored]`),
      said,
    );
    t.regex(said, /asks for port \d+:80 of this host \[restored\]/);
    t.regex(said, /its image is not here: `kiln service upgrade two`/);
    const { directory, definition, var: data } = instanceFiles(state.paths, 'two');
    const modes = await execa('stat', ['-c', '%a %u:%g', directory, definition, `${data}/as-root`]);
    t.deepEqual(modes.stdout.split('\n'), ['700 0:0', '600 0:0', '4755 0:0']);
    // Nobody but root reaches what has such bits.
    const run = ['--reuid', '1000', '--regid', '1000', '--clear-groups', `${data}/as-root`, 'id'];
    t.not((await execa('setpriv', run, { reject: false })).exitCode, 0);
    const started = await service('start', 'two');
    t.regex(String(started.stderr), /cannot read which image it has/);
  },
);
