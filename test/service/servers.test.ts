import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { appendFile, readFile, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { instanceFiles } from '../../src/service/lifecycle/store.ts';
import type { ServiceStatus } from '../../src/service/status.ts';
import { KILN } from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';
import { freePort } from '../support/free-port.ts';
import { long } from '../support/long.ts';
import { type ServiceState, serviceState } from './service-state.ts';

let state: ServiceState;

test.before(async () => {
  state = await serviceState();
});
test.after.always(() => state[Symbol.asyncDispose]());

const service = (...args: readonly string[]) => state.service(...args);
const inside = (name: string, ...command: readonly string[]) => state.inside(name, ...command);
const statusOf = (name: string) => state.statusOf(name);

const get = async (port: number, path = '/') =>
  (
    await execa('curl', ['-s', '--max-time', '10', `http://127.0.0.1:${port}${path}`], {
      reject: false,
    })
  ).stdout;

/** What the host has mounted of loop devices of files of this state; other tests have some of their own. */
async function loopMounts(): Promise<string[]> {
  const { stdout } = await execa('losetup', [
    '--list',
    '--noheadings',
    '--output',
    'NAME,BACK-FILE',
  ]);
  const devices = stdout
    .split('\n')
    .filter((line) => line.includes(state.paths.root))
    .map((line) => line.split(/\s/)[0] ?? '');
  const mounts = (await readFile('/proc/self/mountinfo', 'utf8')).split('\n');
  return mounts.filter((line) => devices.some((device) => line.includes(` ${device} `)));
}

const ports = { shop: 0, blog: 0, cache: 0 };

test.serial('two virtual hosts of Apache run from one image', async (t) => {
  for (const name of ['shop', 'blog'] as const) {
    ports[name] = await freePort();
    const made = await service(
      ...['create', '-r', 'debian-apache', '-u', 'apache2.service', '-C'],
      ...['-p', `${ports[name]}:80`, '--health', ':80/', name],
    );
    t.is(made.exitCode, 0, made.stderr);
    // The package that owns the unit, and what of /etc and /var is its own, as rpm has it.
    t.regex(made.stdout, /apache2-2\.\S+: .*\/etc\/apache2/);
  }
  const started = await service('start', 'shop', 'blog');
  t.is(started.exitCode, 0, started.stderr);
  for (const name of ['shop', 'blog'] as const) {
    await inside(
      name,
      'sh',
      '-c',
      `mkdir -p /var/www/html && echo the ${name} > /var/www/html/index.html`,
    );
  }
  t.is(await get(ports.shop), 'the shop');
  t.is(await get(ports.blog), 'the blog');
  const [one, two] = [(await statusOf('shop'))!, (await statusOf('blog'))!];
  t.is(one.image, two.image);
  t.not(one.domain, two.domain);
  // Both run the very same program: one inode, one copy in the page cache.
  const program = async ({ initPid }: ServiceStatus) =>
    (
      await execa('stat', ['-L', '-c', '%d:%i', `/proc/${initPid}/root/usr/sbin/apache2`])
    ).stdout.split(':')[1];
  t.is(await program(one), await program(two));
  // Apache’s workers are www-data of the sandbox, which is nobody of the host’s.
  const uids = await inside('shop', 'sh', '-c', 'ps -eo user= | sort -u');
  t.true(uids.split('\n').includes('www-data'), uids);
});

test.serial(
  'a reload reaches every service that runs the unit, and changes its configuration',
  async (t) => {
    for (const name of ['shop', 'blog']) {
      await inside(
        name,
        'sh',
        '-c',
        'echo "Redirect /moved http://example.org/" > /etc/apache2/conf-enabled/moved.conf',
      );
    }
    t.not((await get(ports.shop, '/moved')).includes('example.org'), true);
    const reloaded = await service('reload', '--unit', 'apache2.service');
    t.is(
      reloaded.stdout.split('\n').sort().join(),
      'blog: reloaded,shop: reloaded',
      reloaded.stderr,
    );
    for (const name of ['shop', 'blog'] as const) {
      const moved = await eventually(async () =>
        (await get(ports[name], '/moved')).includes('example.org'),
      );
      t.true(moved);
    }
  },
);

test.serial(
  'a killed Apache comes back, although its unit has a daemon that nobody started',
  async (t) => {
    const { units } = (await statusOf('shop'))!;
    t.is(units[0]?.mainPid, Number(await inside('shop', 'cat', '/run/apache2/apache2.pid')));
    await inside('shop', 'kill', '-9', String(units[0]?.mainPid));
    const again = await eventually(async () => {
      const unit = (await statusOf('shop'))?.units[0];
      return unit?.state === 'active' && unit.restarts === 1 && unit;
    });
    t.not(again.mainPid, units[0]?.mainPid);
    t.is(await get(ports.shop), 'the shop');
  },
);

long('a daemon that leaves its parent’s session late still ends with its service', async (t) => {
  // As daemons do on a busy machine: the parent is gone before the child has called setsid(2).
  const files = {
    '/usr/lib/systemd/system/late.service':
      '[Service]\nType=forking\nExecStart=/bin/sh /usr/lib/start\nRestart=on-abort\n',
    '/usr/lib/start': '(sleep 2; exec setsid sh /usr/lib/daemon) &\n',
    '/usr/lib/daemon': 'sleep 4711 &\nexec sleep 4718\n',
  };
  const list = Object.entries(files).map(([path, content]) => ({ path, content }));
  const recipe = join(state.directory, 'late.yaml');
  await writeFile(recipe, `extends: debian-apache\nfiles: ${JSON.stringify(list)}\n`);
  const made = await service('create', '-r', recipe, '-u', 'late.service', 'late');
  t.is(made.exitCode, 0, made.stderr);
  t.is((await service('start', 'late')).exitCode, 0);
  const sleeping = async () => (await inside('late', 'pgrep', '-f', 'sleep 4711')).split('\n');
  const [first] = await eventually(sleeping);
  const main = (await statusOf('late'))?.units[0]?.mainPid;
  await inside('late', 'kill', '-9', String(main));
  await eventually(async () => (await statusOf('late'))?.units[0]?.restarts === 1);
  const again = await eventually(async () => {
    const found = await sleeping();
    return !found.includes(first!) && found;
  });
  t.is(again.length, 1);
  t.is((await service('stop', 'late')).exitCode, 0);
});

test.serial('the image’s own logrotate runs in a service, and Apache writes on', async (t) => {
  const rotated = await service('logrotate', '--force', 'shop');
  t.is(rotated.exitCode, 0, rotated.stderr);
  t.regex(rotated.stdout, /shop: rotated, reloaded apache2\.service/);
  const files = await inside('shop', 'ls', '/var/log/apache2');
  t.true(files.includes('access.log.1'), files);
  await get(ports.shop, '/after-rotation');
  const line = await eventually(async () => {
    const text = await inside('shop', 'cat', '/var/log/apache2/access.log');
    return text.includes('/after-rotation') && text;
  });
  t.truthy(line);
});

test.serial('an upgrade keeps changes in /etc as rpm would, and all of /var', async (t) => {
  const recipe = join(state.directory, 'next.yaml');
  // What the packages’ next versions would bring: a changed file, a new one, a new account.
  await writeFile(
    recipe,
    `extends: debian-apache
files:
  - { path: /etc/apache2/ports.conf, content: "# new\\nListen 80\\n" }
  - { path: /etc/apache2/magic, content: "# new magic\\n" }
  - { path: /etc/apache2/conf-available/new.conf, content: "# new\\n" }
users: [{ name: extra, uid: 4711 }]
`,
  );
  await inside(
    'shop',
    'sh',
    '-c',
    'echo "# mine" >> /etc/apache2/ports.conf; echo mine:x:4000:4000::/:/bin/sh >> /etc/passwd',
  );
  const before = (await statusOf('shop'))!;
  const upgraded = await service('upgrade', 'shop', '--to', recipe);
  t.is(upgraded.exitCode, 0, upgraded.stderr);
  t.regex(
    upgraded.stderr,
    /ports\.conf: yours is kept, the new one is apache2\/ports\.conf\.rpmnew/,
  );
  t.regex(await inside('shop', 'cat', '/etc/apache2/ports.conf'), /# mine/);
  t.regex(await inside('shop', 'cat', '/etc/apache2/ports.conf.rpmnew'), /^# new/);
  t.is(await inside('shop', 'cat', '/etc/apache2/magic'), '# new magic');
  t.is(await inside('shop', 'cat', '/etc/apache2/conf-available/new.conf'), '# new');
  const accounts = await inside('shop', 'cut', '-d:', '-f1', '/etc/passwd');
  t.true(['extra', 'mine', 'www-data'].every((name) => accounts.split('\n').includes(name)));
  t.is(await get(ports.shop), 'the shop');
  t.not((await statusOf('shop'))?.image, before.image);
  t.is((await service('upgrade', 'shop', '--to', recipe)).stdout.includes('is current'), true);
});

test.serial('an upgrade that is not healthy is undone, data included', async (t) => {
  const recipe = join(state.directory, 'bad.yaml');
  await writeFile(
    recipe,
    'extends: debian-apache\nfiles: [{ path: /etc/apache2/conf-enabled/bad.conf, content: "Redirect 503 /\\n" }]\n',
  );
  const file = instanceFiles(state.paths, 'shop').definition;
  const text = (await readFile(file, 'utf8')).replace(
    'http: :80/',
    'http: :80/\n  interval: 1s\n  retries: 2',
  );
  await writeFile(file, text);
  const { image } = (await statusOf('shop'))!;
  const upgraded = await service('upgrade', 'shop', '--to', recipe);
  t.is(upgraded.exitCode, 125);
  t.regex(upgraded.stderr, /back on its old image \[E_\w+\]\n.*(?:unhealthy|HTTP status 503)/s);
  t.is((await statusOf('shop'))?.image, image);
  t.is(await get(ports.shop), 'the shop');
});

long('an upgrade whose maker was killed is undone by the next start', async (t) => {
  await service('stop', 'shop');
  const { keepPrevious } = await import('../../src/service/lifecycle/upgrade.ts');
  const files = instanceFiles(state.paths, 'shop');
  // As it is in the middle of an upgrade: the copy is there, /etc and the image are not what they were.
  await keepPrevious(files);
  await writeFile(join(files.etc, 'apache2/apache2.conf'), 'broken');
  await writeFile(files.image, JSON.stringify({ image: '0'.repeat(64) }));
  const started = await service('start', 'shop');
  t.is(started.exitCode, 0, started.stderr);
  t.is(await get(ports.shop), 'the shop');
});

test.serial('the size of its image limits what a service writes', async (t) => {
  ports.cache = await freePort();
  const made = await service(
    ...[
      'create',
      '-r',
      'debian-redis',
      '-u',
      'redis-server',
      '-i',
      '48M',
      '-p',
      `${ports.cache}:6379`,
      'cache',
    ],
  );
  t.is(made.exitCode, 0, made.stderr);
  const begun = await service('start', 'cache');
  t.is(begun.exitCode, 0, begun.stderr);
  const full = await service(
    'execute',
    'cache',
    '--',
    'sh',
    '-c',
    'cat /dev/zero > /var/lib/redis/full',
  );
  t.regex(full.stderr, /No space left/);
  await inside('cache', 'rm', '/var/lib/redis/full');
  // On the host it is one sparse file of that size, and no mount.
  const { stdout } = await execa('dumpe2fs', ['-h', instanceFiles(state.paths, 'cache').varImage]);
  t.regex(stdout, /Block count:\s+(?:12288|49152)/);
  t.deepEqual(await loopMounts(), []);
});

test.serial(
  'Redis is ready by sd_notify, answers its client, and keeps its data over kill -9',
  async (t) => {
    const status = (await statusOf('cache'))!;
    t.is(status.units[0]?.state, 'active');
    const client = connect(ports.cache, '127.0.0.1');
    client.write('SET key kept\r\nSAVE\r\n');
    await eventually(async () => String(await once(client, 'data')).includes('OK'));
    client.destroy();
    process.kill(status.supervisorPid, 'SIGKILL');
    await eventually(async () => {
      const now = await statusOf('cache');
      return now?.state === 'running' && now.supervisorPid !== status.supervisorPid;
    });
    t.is(await inside('cache', 'redis-cli', 'GET', 'key'), 'kept');
    t.deepEqual(await loopMounts(), []);
  },
);

long('MariaDB keeps its data over a restart and kill -9 of server or all', async (t) => {
  const made = await service(
    'create',
    '-r',
    'debian-mariadb',
    '-u',
    'mariadb',
    '--memory',
    '1G',
    'db',
  );
  t.is(made.exitCode, 0, made.stderr);
  const started = await service('start', 'db');
  t.is(started.exitCode, 0, started.stderr);
  const sql = (text: string) => inside('db', 'mariadb', '-BNe', text);
  await sql('create database shop; create table shop.t (a int primary key, b blob) engine=innodb');
  await sql(
    'use shop; insert into t select seq, repeat(char(65 + seq % 26), 5000) from seq_1_to_500',
  );
  const sum = () => sql('select count(*), md5(group_concat(md5(b) order by a)) from shop.t');
  const expected = await sum();
  const digests = Array.from({ length: 500 }, (_, i) =>
    createHash('md5')
      .update(String.fromCharCode(65 + ((i + 1) % 26)).repeat(5000))
      .digest('hex'),
  );
  t.true(expected.startsWith('500\t'));
  const limit = Number(await sql('select @@group_concat_max_len'));
  t.true(limit >= digests.join(',').length);
  t.is(expected.split('\t')[1], createHash('md5').update(digests.join(',')).digest('hex'));

  t.is((await service('restart', 'db')).exitCode, 0);
  t.is(await sum(), expected);

  const unit = (await statusOf('db'))!.units[0]!;
  await inside('db', 'kill', '-9', String(unit.mainPid));
  await eventually(
    async () => (await statusOf('db'))?.units[0]?.restarts === 1 && (await sum()) === expected,
  );

  const status = (await statusOf('db'))!;
  process.kill(status.initPid, 'SIGKILL');
  await eventually(async () => {
    const now = await statusOf('db');
    return now !== undefined && now.initPid !== status.initPid && (await sum()) === expected;
  });
  t.is(await sum(), expected);
});

test.serial('systemd accepts the host’s units, which name what is to be propagated', async (t) => {
  const folder = join(state.directory, 'units');
  t.is((await service('install', '--directory', folder, 'shop', 'cache')).exitCode, 0);
  const units = [
    'kiln@shop.service',
    'kiln@cache.service',
    'kiln-logrotate.timer',
    'kiln-services.target',
    'kiln-unit-apache2.target',
  ];
  const verified = await execa(
    'systemd-analyze',
    ['verify', '--man=no', '--recursive-errors=no', ...units.map((unit) => join(folder, unit))],
    { reject: false, env: { SYSTEMD_UNIT_PATH: `${folder}:` } },
  );
  t.is(verified.exitCode, 0, verified.stderr);
  t.is(verified.stderr, '');
  const dropIn = await readFile(join(folder, 'kiln@shop.service.d/kiln.conf'), 'utf8');
  t.regex(dropIn, /^ReloadPropagatedFrom=apache2\.service$/m);
  t.regex(dropIn, /^PartOf=kiln-unit-apache2\.target$/m);
  const cron = join(state.directory, 'cron');
  t.is((await service('install', '--cron', cron)).exitCode, 0);
  const line = (await readFile(cron, 'utf8')).split('\n').find((text) => text.includes(' root '));
  // The command of the crontab, as cron's shell runs it.
  const ran = await execa('sh', ['-c', line?.split(' root ')[1] ?? 'false'], {
    env: state.env,
    reject: false,
  });
  t.is(ran.exitCode, 0, ran.stderr);
});

test.serial(
  'a host’s unit runs a service in the foreground, and stops it by SIGTERM',
  async (t) => {
    await service('stop', 'blog');
    const supervisor = execa(KILN, ['service', 'supervise', '--echo', 'blog'], {
      env: state.env,
      reject: false,
    });
    await eventually(async () => (await get(ports.blog)) === 'the blog');
    supervisor.kill('SIGTERM');
    const { exitCode, stdout } = await supervisor;
    t.is(exitCode, 0);
    t.regex(String(stdout), /blog has stopped/);
    t.is(await get(ports.blog), '');
    await appendFile(instanceFiles(state.paths, 'blog').definition, 'units: nonsense\n');
    t.is(
      (await execa(KILN, ['service', 'supervise', 'blog'], { env: state.env, reject: false }))
        .exitCode,
      78,
    );
  },
);
