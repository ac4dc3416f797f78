import { readFile } from 'node:fs/promises';
import { runTool } from '../../kernel/child-process.ts';
import { type Check, type Finding, fail, ok, reason, warn } from '../check.ts';

/** Namespaces that a box is made of, by their name in /proc/sys/user and unshare(1)'s option. */
const KINDS: Readonly<Record<string, string>> = {
  user: '--user',
  mnt: '--mount',
  pid: '--pid',
  net: '--net',
  ipc: '--ipc',
  uts: '--uts',
  cgroup: '--cgroup',
};

/** Fewer user namespaces than this and ten boxes at once may not all start. */
const FEW = 64;

/** Namespaces of every kind can be made: the limits allow it, and making them works. */
export const namespaces: Check = {
  name: 'namespaces',
  async run() {
    const limits: string[] = [];
    for (const kind of Object.keys(KINDS)) {
      const file = `/proc/sys/user/max_${kind}_namespaces`;
      const limit = Number(await readFile(file, 'utf8').catch(() => 'NaN'));
      if (limit === 0) return tooFew(kind, limit, 'fail');
      if (limit < FEW) return tooFew(kind, limit, 'warn');
      if (kind === 'user') limits.push(`at most ${limit} user namespaces`);
    }
    const made = await runTool('unshare', ['--fork', ...Object.values(KINDS), 'true']);
    if (made.failure !== undefined) {
      return fail(
        `unshare: ${reason(made.failure)}`,
        'namespaces cannot be made here',
        'leave the container whose seccomp profile, capabilities or security module forbids it',
      );
    }
    if (await restrictsOthers()) limits.push('root alone may make user namespaces');
    return ok(['all kinds can be made', ...limits].join(', '));
  },
};

/** Ubuntu's and Debian's switches against users other than root; kiln is root. */
async function restrictsOthers(): Promise<boolean> {
  const value = (name: string) => readFile(`/proc/sys/kernel/${name}`, 'utf8').catch(() => '');
  const apparmor = await value('apparmor_restrict_unprivileged_userns');
  const debian = await value('unprivileged_userns_clone');
  return apparmor.trim() === '1' || debian.trim() === '0';
}

function tooFew(kind: string, limit: number, status: 'warn' | 'fail'): Finding {
  const name = `user.max_${kind}_namespaces`;
  const make = status === 'fail' ? fail : warn;
  return make(`${name} is ${limit}`, 'boxes cannot be made', `sysctl -w ${name}=100000`);
}
