/** What is timed must be what is promised: every layer is looked for in the measured process. */
import { execa } from 'execa';
import { type Bed, KILN } from './bed.ts';

/**
 * Runs a command in a sandbox that prints its own status and namespaces.
 * Throws when one of the layers is not in force.
 */
export async function checkLayers(bed: Bed): Promise<Record<string, string>> {
  const script =
    'grep -E "^(Seccomp|NoNewPrivs|CapBnd|CapEff):" /proc/self/status; for n in /proc/self/ns/*; do readlink $n; done';
  const [kiln] = KILN;
  const { stdout } = await execa(kiln, ['run', '-r', bed.image, '--', 'sh', '-c', script], {
    env: bed.env,
  });
  const status = Object.fromEntries(
    [...stdout.matchAll(/^(\w+):\s*(\S+)$/gm)].map(([, name = '', value = '']) => [name, value]),
  );
  const expected = { Seccomp: '2', NoNewPrivs: '1', CapBnd: '0000000000000000' };
  for (const [name, value] of Object.entries(expected)) {
    if (status[name] !== value) throw new Error(`${name} is ${status[name]}, not ${value}`);
  }
  for (const name of ['cgroup', 'ipc', 'mnt', 'net', 'pid', 'user', 'uts']) {
    const { stdout: own } = await execa('readlink', [`/proc/self/ns/${name}`]);
    if (!stdout.includes(`${name}:[`) || stdout.includes(own)) {
      throw new Error(`the ${name} namespace is the host’s`);
    }
  }
  return status;
}
