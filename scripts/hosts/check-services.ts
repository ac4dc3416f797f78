import assert from 'node:assert/strict';
import { appendFile, writeFile } from 'node:fs/promises';
import { execa } from 'execa';
import {
  eventually,
  get,
  installServices,
  kiln,
  names,
  property,
  removeServices,
  statusOf,
  systemctl,
} from './services.ts';

/** The host's unit of a service. */
const unit = (name: string) => `kiln@${name}.service`;

/** What the host's journal has of a unit since it booted. */
async function journal(name: string): Promise<string> {
  return (await execa('journalctl', ['-b', '--no-pager', '-o', 'cat', '-u', name])).stdout;
}

async function bothServe(): Promise<void> {
  for (const name of names) {
    await eventually(`${name} serves`, async () => (await get(name, '/')) === '200');
    assert.equal(await property(unit(name), 'ActiveState'), 'active');
  }
}

/** Apache, twice, under the host's systemd: what an administrator does, and what goes wrong. */
export async function checkServices(): Promise<void> {
  await installServices();
  try {
    const said = await kiln('service', 'start', ...names);
    for (const name of names) {
      assert.match(said, new RegExp(`supervised by kiln@${name}\\.service`));
      assert.equal(await systemctl('is-enabled', unit(name)), 'enabled');
    }
    await bothServe();
    const [first, second] = names as [(typeof names)[0], (typeof names)[0]];
    assert.match(await journal(unit(first)), /apache2\.service/);
    await reloadByTheHostsUnit();
    await killMainProcess(first);
    await killSupervisor(first);
    await systemctl('stop', unit(second));
    assert.equal(await property(unit(second), 'Result'), 'success');
    assert.equal(await get(second, '/'), '');
    assert.equal(await get(first, '/'), '200', 'stopping one leaves the other');
    await systemctl('start', unit(second));
    await bothServe();
    await rotate();
    await systemctl('stop', 'kiln-services.target');
    for (const name of names) {
      // systemctl waits for the target alone; its parts take the time that Apache takes.
      const isInactive = async () => (await property(unit(name), 'ActiveState')) === 'inactive';
      await eventually(`${name} is down`, isInactive);
      assert.equal(await property(unit(name), 'Result'), 'success');
      assert.equal(await get(name, '/'), '');
    }
    await systemctl('start', 'kiln-services.target');
    await bothServe();
  } finally {
    await removeServices();
  }
}

/** A unit of the host's that is named as the one in the sandboxes is reloaded, and so are they. */
async function reloadByTheHostsUnit(): Promise<void> {
  await writeFile(
    '/run/systemd/system/apache2.service',
    '[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\nExecReload=/bin/true\n',
  );
  await systemctl('daemon-reload');
  await systemctl('start', 'apache2.service');
  const before = await Promise.all(names.map(statusOf));
  const line = 'echo "Redirect /moved http://example.org/" >/etc/apache2/conf-enabled/moved.conf';
  for (const name of names) {
    await kiln('service', 'execute', name, '--', 'sh', '-c', line);
    assert.equal(await get(name, '/moved'), '404', 'not reloaded yet');
  }
  await systemctl('reload', 'apache2.service');
  for (const [index, name] of names.entries()) {
    const redirected = async () => (await get(name, '/moved')) === '302 http://example.org/';
    await eventually(`${name} is reloaded`, redirected);
    const now = await statusOf(name);
    assert.equal(now?.units[0]?.mainPid, before[index]?.units[0]?.mainPid, 'no restart');
  }
}

/** The unit in the sandbox says Restart=on-abort: its own supervisor starts it again. */
async function killMainProcess(name: (typeof names)[0]): Promise<void> {
  const before = await statusOf(name);
  const main = before?.units[0]?.mainPid;
  assert.ok(main);
  await kiln('service', 'execute', name, '--', 'kill', '-KILL', String(main));
  await eventually('Apache is started again', async () => {
    const now = await statusOf(name);
    const pid = now?.units[0]?.mainPid;
    return typeof pid === 'number' && pid !== main && (await get(name, '/')) === '200';
  });
  assert.equal((await statusOf(name))?.sandbox, before?.sandbox, 'in the same sandbox');
  assert.equal(await property(unit(name), 'NRestarts'), '0', 'the host’s unit went on');
}

/** The sandbox dies with its supervisor; the host’s systemd starts both again. */
async function killSupervisor(name: (typeof names)[0]): Promise<void> {
  const before = await statusOf(name);
  const supervisor = Number(await property(unit(name), 'MainPID'));
  assert.equal(supervisor, before?.supervisorPid);
  process.kill(supervisor, 'SIGKILL');
  await eventually('the service is started again', async () => {
    const now = await statusOf(name);
    return now?.sandbox !== before?.sandbox && (await get(name, '/')) === '200';
  });
  assert.equal(await property(unit(name), 'NRestarts'), '1');
  const sandboxes: { id: string }[] = JSON.parse(await kiln('ps', '--json'));
  const left = sandboxes.some(({ id }) => id === before?.sandbox);
  assert.equal(left, false, 'the former sandbox is gone');
}

async function rotate(): Promise<void> {
  assert.equal(await systemctl('is-active', 'kiln-logrotate.timer'), 'active');
  await systemctl('start', 'kiln-logrotate.service');
  const text = await journal('kiln-logrotate.service');
  for (const name of names) assert.match(text, new RegExp(`^${name}: rotated`, 'm'));
}

/** Services that are installed and do not run: the next boot is to start them. */
export async function leaveServices(): Promise<void> {
  await installServices();
  for (const name of names) assert.equal(await get(name, '/'), '');
  // The job mounts it, but the services' program lies there, and nobody waits for the job.
  await appendFile('/etc/fstab', 'LABEL=kiln-job /srv ext4 defaults 0 2\n');
}

/** The host has booted: nobody but its systemd has started anything. */
export async function checkBoot(): Promise<void> {
  try {
    await bothServe();
    const entered = async (of: string, event: string) =>
      Number(await property(of, `${event}TimestampMonotonic`));
    const network = await entered('network.target', 'ActiveEnter');
    const boot = await entered('multi-user.target', 'ActiveEnter');
    for (const name of names) {
      const begun = await entered(unit(name), 'InactiveExit');
      const up = await entered(unit(name), 'ActiveEnter');
      assert.ok(network < begun, `${name} starts after the network: ${network}, ${begun}`);
      assert.ok(up < boot, `the host counts as up once ${name} is: ${up}, ${boot}`);
      assert.match(await journal(unit(name)), new RegExp(`starting ${name}`));
    }
    assert.equal(await systemctl('is-active', 'kiln-logrotate.timer'), 'active');
  } finally {
    await removeServices();
  }
}
