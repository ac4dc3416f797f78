/** Apache services on a host of scripts/test-hosts, seen as its administrator sees them. */
import assert from 'node:assert/strict';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { stopEmbeddedDaemon } from '../../src/host/libvirt/embedded/daemon.ts';
import { statePaths } from '../../src/host/state/paths.ts';
import type { ServiceStatus } from '../../src/service/status.ts';

const top = join(import.meta.dirname, '../..');

/** On the host's own disk: the state outlives the boot. */
const env = { ...process.env, KILN_STATE: '/var/lib/kiln-services' };

/** Two virtual hosts on one image, and their ports of this host. */
const ports = { apache1: 8081, apache2: 8082 } as const;

export type Name = keyof typeof ports;

export const names = Object.keys(ports) as Name[];

/** How long an emulated host may take for what happens by itself, ms. */
const PATIENCE = 5 * 60_000;

export async function kiln(...args: readonly string[]): Promise<string> {
  const options = { env: { ...env, KILN_URI: process.env.KILN_URI ?? '' }, cwd: top } as const;
  return (await execa('bin/kiln', args, { ...options, stdin: 'ignore' })).stdout;
}

export async function systemctl(...args: readonly string[]): Promise<string> {
  return (await execa('systemctl', args, { stdin: 'ignore' })).stdout;
}

/** A property of a unit of the host's, as systemd shows it. */
export async function property(unit: string, name: string): Promise<string> {
  return await systemctl('show', '--value', '--property', name, unit);
}

/** The status line and the place that a redirection names; nothing where nobody answers. */
export async function get(name: Name, path: string): Promise<string> {
  const answer = await fetch(`http://127.0.0.1:${ports[name]}${path}`, {
    redirect: 'manual',
    headers: { connection: 'close' },
  }).catch(() => undefined);
  if (answer === undefined) return '';
  await answer.arrayBuffer();
  return `${answer.status} ${answer.headers.get('location') ?? ''}`.trim();
}

export function statusOf(name: Name): Promise<ServiceStatus | undefined> {
  return listed(name);
}

export async function listed(name: string): Promise<ServiceStatus | undefined> {
  const [listed] = JSON.parse(await kiln('service', 'list', '--json', name));
  return listed?.status ?? undefined;
}

/** Waits until `look` gives what it should. */
export async function eventually<Found>(
  what: string,
  look: () => Promise<Found | undefined | false>,
): Promise<Found> {
  for (const end = Date.now() + PATIENCE; ; await sleep(1000)) {
    const found = await look().catch(() => undefined);
    if (found !== undefined && found !== false) return found;
    assert.ok(Date.now() < end, `in time: ${what}`);
  }
}

/** The image, and two services on it that the host's systemd knows, and starts when it boots. */
export async function installServices(): Promise<void> {
  await kiln('image', 'build', 'debian-apache');
  const file = ['--file', 'recipes/services/apache.yaml'];
  const [first, second] = names as [Name, Name];
  await kiln('service', 'create', ...file, '--publish', `${ports[first]}:80`, first);
  await kiln('service', 'clone', '--publish', `${ports[second]}:80`, first, second);
  await kiln('service', 'install', '--enable', ...names);
}

/** Takes the services away, and what kiln had running for them. */
export async function removeServices(): Promise<void> {
  await kiln('service', 'stop', ...names);
  await kiln('service', 'uninstall', ...names);
  await kiln('service', 'delete', '--yes', ...names);
  await systemctl('disable', '--now', 'kiln-logrotate.timer');
  // systemd's own, for units of a template: it stays until the next boot.
  await systemctl('stop', 'system-kiln.slice');
  await endEngine();
}

export async function endEngine(): Promise<void> {
  const paths = statePaths(env);
  await stopEmbeddedDaemon(paths);
  await rm(paths.run, { recursive: true, force: true });
}
