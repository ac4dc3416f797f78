import { appendFile, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { execa } from 'execa';
import { isDead, waitForDeath } from '../../src/host/process/process.ts';
import type { ServiceStatus } from '../../src/service/status.ts';
import { installProbe, readOutcomes } from '../escape/setup.ts';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  KILN,
  PATIENCE,
} from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';
import { freePort } from '../support/free-port.ts';
import { kill } from '../support/killing.ts';
import { ownSeconds } from '../support/processes.ts';

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
});

test.after.always(async () => {
  const { stdout } = await service('list', '--json');
  const names = (JSON.parse(String(stdout)) as { name: string }[]).map(({ name }) => name);
  if (names.length > 0) await service('stop', ...names);
  await state[Symbol.asyncDispose]();
});

const service = (...args: readonly string[]) => state.kiln(['service', ...args]);

async function statusOf(name: string): Promise<ServiceStatus | undefined> {
  const { stdout } = await service('list', '--json', name);
  const [listed] = JSON.parse(String(stdout)) as { status?: ServiceStatus }[];
  return listed?.status;
}

/** What the server says there; a service runs before its server listens. */
async function pageAt(port: number | undefined): Promise<string> {
  const again = ['--retry', '20', '--retry-all-errors', '--retry-delay', '1'];
  return (await execa('curl', ['-s', ...again, `http://127.0.0.1:${port}/`])).stdout;
}

async function create(name: string, options: readonly string[], ...command: readonly string[]) {
  const made = await service('create', '-r', IMAGE, ...options, name, '--', ...command);
  if (made.exitCode !== 0) throw new Error(String(made.stderr));
}

const HTTPD = ['/bin/busybox', 'httpd', '-f', '-p', '80', '-h', '/var/www'];

test.serial('a command serves through a published port, with its own data', async (t) => {
  const ports = { one: await freePort(), two: await freePort() };
  for (const name of ['one', 'two'] as const) {
    await create(name, ['--user', 'root', '-p', `${ports[name]}:80`], ...HTTPD);
    const { directory } = (await import('../../src/service/lifecycle/store.ts')).instanceFiles(
      state.paths,
      name,
    );
    await execa('mkdir', ['-p', join(directory, 'var/www')]);
    await writeFile(join(directory, 'var/www/index.html'), `this is ${name}\n`);
  }
  const started = await service('start', 'one', 'two');
  t.is(started.exitCode, 0, String(started.stderr));
  t.regex(String(started.stdout), /supervised by kiln/);
  for (const name of ['one', 'two'] as const) {
    t.is(await pageAt(ports[name]), `this is ${name}`);
  }
  // Nothing listens on any interface but the one that was asked for.
  const { stdout: listening } = await execa(
    'curl',
    [
      '-s',
      '-o',
      '/dev/null',
      '-w',
      '%{http_code}',
      '--max-time',
      '2',
      `http://127.0.0.2:${ports.one}/`,
    ],
    { reject: false },
  );
  t.is(listening, '000');
  const ids = await Promise.all(
    ['one', 'two'].map(
      async (name) =>
        (await service('execute', name, '--', 'cat', '/etc/machine-id', '/etc/hostname')).stdout,
    ),
  );
  t.regex(String(ids[0]), /^[0-9a-f]{32}\none$/);
  t.not(ids[0], ids[1]);
});

test.serial('io_setup works for a database with `seccomp: aio`, and not without', async (t) => {
  await installProbe(state);
  for (const [name, setting, outcome] of [
    ['plain', '', 'stopped'],
    ['database', 'seccomp: aio\n', 'through'],
  ] as const) {
    await create(name, [], 'sleep', '1000000');
    await appendFile(join(state.paths.services, name, 'service.yaml'), setting);
    const started = await service('start', name);
    t.is(started.exitCode, 0, String(started.stderr));
    const { stdout } = await service('execute', name, '--', '/bin/probe', 'aio');
    t.is(readOutcomes(String(stdout)).get('aio')?.outcome, outcome, name);
    await service('stop', name);
  }
  await appendFile(join(state.paths.services, 'database/service.yaml'), 'boot: true\n');
  t.regex(String((await service('start', 'database')).stderr), /has a profile of its own/);
});

test.serial('the reported status is what the kernel says', async (t) => {
  const status = (await statusOf('one'))!;
  t.is(status.state, 'running');
  const domains = await execa('virsh', ['-q', '-c', uri(), 'list', '--name']);
  t.true(domains.stdout.split('\n').includes(status.domain));
  // The main process, by the pid namespace of the sandbox's init's children.
  const comm = await readFile(
    `/proc/${status.initPid}/root/proc/${status.units[0]?.mainPid}/cmdline`,
    'utf8',
  );
  t.true(comm.startsWith('/bin/busybox\0httpd'));
  t.true((status.usage.memoryBytes ?? 0) > 0);
  // Neither /etc nor /var is a mount of the host.
  t.false((await readFile('/proc/self/mountinfo', 'utf8')).includes(state.paths.services));
});

const uri = () => `lxc+unix:///system?socket=${join(state.paths.run, 'libvirt/libvirt-sock')}`;

test.serial('a command runs in a service, with its input, output and status', async (t) => {
  const piped = await state.kiln(['service', 'execute', 'one', '--', 'tr', 'a-z', 'A-Z'], {
    input: 'loud\n',
    stdin: 'pipe',
  });
  t.is(piped.stdout, 'LOUD');
  const failing = await service('execute', 'one', '--', 'sh', '-c', 'echo err >&2; exit 7');
  t.is(failing.exitCode, 7);
  t.is(failing.stderr, 'err');
  t.is((await service('execute', 'one', '--', 'sh', '-c', 'kill -9 $$')).exitCode, 137);
  t.is((await service('execute', 'one', '--', 'nonesuch')).exitCode, 127);
  const user = await service(
    'execute',
    'one',
    '--user',
    'build',
    '--workdir',
    '/tmp',
    '--',
    'sh',
    '-c',
    'id -u; pwd',
  );
  t.is(user.stdout, '1000\n/tmp');
  const big = await service(
    'execute',
    'one',
    '--',
    'sh',
    '-c',
    'yes | head -c 3000000 | sha256sum',
  );
  const { stdout } = await execa('sh', ['-c', 'yes | head -c 3000000 | sha256sum']);
  t.is(big.stdout, stdout);
});

test.serial('a command in a service gets a terminal with its size', async (t) => {
  const { stdout } = await execa(
    'script',
    ['-qec', `stty rows 33 cols 77; '${KILN}' service connect one`, '/dev/null'],
    {
      env: state.env,
      input: 'stty size; tty; exit 5\n',
      reject: false,
      timeout: 60_000 * PATIENCE,
    },
  );
  t.true(stdout.includes('33 77'), stdout);
  t.regex(stdout, /\/dev\/pts\/\d/);
});

test.serial('nobody can write to /usr and the image, or reach another service', async (t) => {
  const other = (await statusOf('two'))!;
  const attempts = [
    'touch /bin/x && rm /bin/x; touch /usr/x',
    `ls ${state.paths.services}`,
    `cat /proc/${other.initPid}/environ`,
    `kill -9 ${other.initPid}`,
    `kill -9 ${other.supervisorPid}`,
    'mknod /var/disk b 7 0',
    'mount -t tmpfs none /var',
    'unshare -U true',
    'ls /sys/fs/cgroup/cgroup.procs',
  ];
  const script = attempts.map((attempt) => `(${attempt}) >/dev/null 2>&1; echo $?`).join('\n');
  const { stdout: statuses } = await service('execute', 'one', '--', 'sh', '-c', script);
  const answers = String(statuses).split('\n');
  attempts.forEach((attempt, index) => {
    t.regex(answers[index] ?? '', /^[1-9]/, attempt);
  });
  // There is nothing beside lo, so that the other’s port is out of reach at any address.
  const { stdout } = await service('execute', 'one', '--', 'sh', '-c', 'grep -c : /proc/net/dev');
  t.is(stdout, '1');
  t.is((await statusOf('two'))?.initPid, other.initPid);
});

test.serial('limits change on a running service, in its file and in the kernel', async (t) => {
  t.is(
    (await service('set', 'one', '--memory', '64M', '--pids', '40')).stdout,
    'in force: memory, pids',
  );
  const text = await readFile(join(state.paths.services, 'one/service.yaml'), 'utf8');
  t.regex(text, /^memory: 67108864$/m);
  const eaten = await service(
    'execute',
    'one',
    '--',
    'sh',
    '-c',
    'head -c 200m /dev/zero | tail -c 150m > /dev/null',
  );
  t.not(eaten.exitCode, 0);
  t.true(((await statusOf('one'))?.usage.oomKills ?? 0) > 0);
  t.is((await service('set', 'one', '--cpus', 'many')).exitCode, 125);
  t.is((await service('set', 'one', '--unset', 'memory', '--unset', 'pids')).exitCode, 0);
});

test.serial('a service leaves no core dump, whatever it and its unit ask for', async (t) => {
  const { stdout } = await service('list', '--json', 'one');
  const [listed] = JSON.parse(String(stdout)) as { status: ServiceStatus }[];
  const main = await service(
    'execute',
    'one',
    '--',
    'cat',
    `/proc/${listed?.status.units[0]?.mainPid}/limits`,
  );
  t.regex(String(main.stdout), /^Max core file size +1 +1 /m);
});

test.serial('a killed command comes back, and so does a killed supervisor', async (t) => {
  const before = (await eventually(() => statusOf('one')))!;
  await service('execute', 'one', '--', 'kill', '-9', String(before.units[0]?.mainPid));
  const after = await eventually(async () => {
    const status = await statusOf('one');
    return status?.units[0]?.state === 'active' && status.units[0].restarts > 0 && status;
  });
  t.is(after.supervisorPid, before.supervisorPid);
  process.kill(after.supervisorPid, 'SIGKILL');
  const again = await eventually(async () => {
    const status = await statusOf('one');
    return status?.state === 'running' && status.supervisorPid !== after.supervisorPid && status;
  });
  t.not(again.sandbox, after.sandbox);
  const port = again.publish[0]?.host;
  t.is(await pageAt(port), 'this is one');
  t.true(
    await waitForDeath(after.initPid, 20_000 * PATIENCE),
    'the sandbox of the dead supervisor is gone',
  );
});

test.serial('a killed sandbox ends its visitors with a message, and comes back', async (t) => {
  const before = (await eventually(() => statusOf('one')))!;
  const mark = ownSeconds();
  const inside = service('execute', 'one', '--', 'sleep', mark);
  await kill('init', mark);
  const { exitCode, stderr } = await inside;
  t.is(exitCode, 125, String(stderr));
  t.regex(String(stderr), /ended before its command did \[E_SANDBOX_GONE\]/);
  await eventually(async () => {
    const status = await statusOf('one');
    return status?.state === 'running' && status.sandbox !== before.sandbox;
  });
  t.regex(
    String((await service('logs', 'one')).stdout),
    /kiln: command\.service: sandbox \w+ ended before its command did/,
  );
});

test.serial('the death of libvirtd ends nothing else', async (t) => {
  const before = (await statusOf('one'))!;
  const pid = Number(await readFile(join(state.paths.run, 'libvirt/libvirtd.pid'), 'utf8'));
  process.kill(pid, 'SIGKILL');
  await sleep(500);
  const after = (await statusOf('one'))!;
  t.is(after.sandbox, before.sandbox);
  t.is(
    (await execa('curl', ['-s', `http://127.0.0.1:${after.publish[0]?.host}/`])).stdout,
    'this is one',
  );
  // The next daemon takes the domain over, and it is ended as usual.
  t.is((await service('stop', 'one')).exitCode, 0);
  t.is((await service('start', 'one')).exitCode, 0);
});

/** Why a service failed for good: when nobody tries to start its units any more. */
function failureOf(name: string) {
  return eventually(async () => {
    const { stdout } = await service('list', '--json', name);
    const [listed] = JSON.parse(String(stdout));
    return listed.status === undefined && listed.outcome?.state === 'failed' && listed.outcome;
  });
}

test.serial('a service that cannot run says why, and is not restarted for ever', async (t) => {
  await create('broken', [], 'sh', '-c', 'echo no configuration >&2; exit 3');
  const begun = Date.now();
  await service('start', 'broken');
  const failed = await failureOf('broken');
  t.regex(failed.reason, /command\.service/);
  t.true(Date.now() - begun < 60_000 * PATIENCE);
  t.regex(String((await service('logs', 'broken')).stdout), /command\[\d+\]: no configuration/);
  await create('missing', [], '/nonesuch');
  const started = await service('start', 'missing');
  t.is(started.exitCode, 125);
  t.regex(String(started.stderr), /\/nonesuch: not found in the image/);
  const port = (await statusOf('two'))?.publish[0]?.host;
  await create('taken', ['-p', `${port}:80`], 'sleep', '1000');
  const refused = await service('start', 'taken');
  t.is(refused.exitCode, 125);
  t.regex(String(refused.stderr), new RegExp(`cannot listen on 127.0.0.1 port ${port}`));
  t.regex(String(refused.stderr), /set taken --publish HOSTPORT:80`/);
  // Nobody goes on trying.
  t.is((await service('delete', '--volumes', 'taken')).exitCode, 0);
});

test.serial('files written by people are checked, with the place of a mistake', async (t) => {
  const file = join(state.paths.services, 'broken/service.yaml');
  await appendFile(file, 'pubilsh: [8080:80]\nmemory: lots\n');
  const { stderr, exitCode } = await service('start', 'broken');
  t.is(exitCode, 125);
  t.regex(String(stderr), /service\.yaml:\d+:1: pubilsh: unknown key \(did you mean "publish"\?\)/);
  t.regex(String(stderr), /service\.yaml:\d+:9: memory: "lots" is not a size/);
  t.regex(String(stderr), /^kiln: service file .* has 2 problems:/);
  t.regex(String(stderr), /hint: docs\/services\.md .*`kiln service schema`/);
  t.is((await service('create', '-r', IMAGE, 'Bad Name', '--', 'true')).exitCode, 125);
  t.is((await service('create', '-r', IMAGE, '-u', 'web.service', 'nounit')).exitCode, 125);
});

test.serial('a clone has the same data and a new identity, if its model is stopped', async (t) => {
  t.regex(String((await service('clone', 'one', 'three')).stderr), /service one is running/);
  await service('stop', 'one');
  const port = await freePort();
  t.is((await service('clone', 'one', 'three', '-p', `${port}:80`)).exitCode, 0);
  t.is((await service('start', 'one', 'three')).exitCode, 0);
  t.is(await pageAt(port), 'this is one');
  await service('execute', 'three', '--', 'sh', '-c', 'echo changed > /var/www/index.html');
  t.is((await service('execute', 'one', '--', 'cat', '/var/www/index.html')).stdout, 'this is one');
  const id = await service('execute', 'three', '--', 'cat', '/etc/machine-id', '/etc/hostname');
  const original = await service('execute', 'one', '--', 'cat', '/etc/machine-id');
  t.regex(String(id.stdout), /\nthree$/);
  t.false(String(id.stdout).startsWith(String(original.stdout)));
});

test.serial(
  'on a libvirt network a service has an address; peers reach it only when allowed',
  async (t) => {
    const virsh = (...args: string[]) => execa('virsh', ['-q', '-c', uri(), ...args]);
    const bridge = `kt${process.pid}`;
    const third = (process.pid % 250) + 1;
    const file = join(state.paths.root, 'network.xml');
    // A network that brings no firewall and no DHCP: what is tested is the service's own. Without
    // STP: with it a bridge passes nothing on for the first seconds of a port.
    await writeFile(
      file,
      `<network><name>peers</name><forward mode='open'/><bridge name='${bridge}' stp='off' delay='0'/>
       <ip address='10.93.${third}.1' prefix='24'/></network>`,
    );
    await virsh('net-create', file);
    try {
      const address = (last: number) => `10.93.${third}.${last}`;
      for (const last of [5, 6]) {
        const network = `peers,address=${address(last)}/24,gateway=${address(1)}`;
        await create(`net${last}`, ['--user', 'root', '-N', network], ...HTTPD.with(-1, '/etc'));
      }
      t.is((await service('start', 'net5', 'net6')).exitCode, 0);
      const routes = await service('execute', 'net5', '--', 'cat', '/proc/net/route');
      t.regex(String(routes.stdout), /^eth0\s+00000000/m, String(routes.stderr));
      // A service runs before its server listens.
      for (const last of [5, 6]) {
        const url = `http://${address(last)}/`;
        const code = async () =>
          (await execa('curl', ['-s', '-o', '/dev/null', '-w', '%{http_code}', url])).stdout;
        t.true(await eventually(async () => (await code()) === '404'));
      }
      const peer = () =>
        service(
          'execute',
          'net5',
          '--',
          'busybox',
          'timeout',
          '5',
          'busybox',
          'wget',
          '-O',
          '-',
          `http://${address(6)}/`,
        );
      const refused = await peer();
      t.regex(
        `${refused.exitCode} ${refused.stderr}`,
        /^143|No route to host|unreachable|timed out/,
      );
      await service('stop', 'net5', 'net6');
      for (const last of [5, 6]) {
        const path = join(state.paths.services, `net${last}/service.yaml`);
        await writeFile(
          path,
          (await readFile(path, 'utf8')).replace('name: peers', 'name: peers\n  peers: true'),
        );
      }
      t.is((await service('start', 'net5', 'net6')).exitCode, 0);
      t.true(await eventually(async () => /404/.test(String((await peer()).stderr))));
    } finally {
      await service('stop', 'net5', 'net6');
      await virsh('net-destroy', 'peers');
    }
  },
);

test.serial('a stopped service is gone from memory, and a deleted one from the disk', async (t) => {
  const { initPid, domain } = (await statusOf('three'))!;
  t.regex(
    String((await service('delete', '--volumes', 'three')).stderr),
    /service three is running/,
  );
  const stopped = await service('stop', 'three');
  t.is(stopped.exitCode, 0, String(stopped.stderr));
  t.true(isDead(initPid));
  const domains = await execa('virsh', ['-q', '-c', uri(), 'list', '--all', '--name']);
  t.false(domains.stdout.split('\n').includes(domain));
  // Its unit is tried again a few times, each time later.
  t.regex((await failureOf('missing')).reason, /nonesuch|command\.service/);
  const deleted = await service('delete', '--volumes', 'three', 'broken', 'missing');
  t.is(deleted.exitCode, 0, String(deleted.stderr));
  await t.throwsAsync(stat(join(state.paths.services, 'three')));
  t.regex(String((await service('start', 'three')).stderr), /no service three/);
});

test.serial('gc keeps the image of a stopped service', async (t) => {
  await service('stop', 'one', 'two');
  const { stderr, exitCode } = await state.kiln(['image', 'rm', IMAGE]);
  t.is(exitCode, 125, String(stderr));
  t.regex(String(stderr), /in use by the service (?:one|two)/);
});
