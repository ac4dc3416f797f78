/**
 * The proxy's process reads what a hostile sandbox sends, so it gives up everything but the network: it has ids
 * that own nothing and no capability, starts no program, and sees no other process.
 */
import '../stray-errors.ts';
import { once } from 'node:events';
import { egressProxy } from '../egress/proxy.ts';
import { EgressLog, PUBLIC_HOSTS, parseEgressRules } from '../egress/rule.ts';
import { dieWithParent, limitResource, setNoNewPrivileges } from '../host/process/process.ts';
import { refuseSystemCalls } from '../host/process/seccomp.ts';

/** The last of the ids that are kept for confined children (src/host/confine/launch.ts). */
const NOBODY = 1879048192 + 65533;

const LISTENER_FD = 3;

const REFUSED = [
  ...['execve', 'execveat', 'fork', 'vfork', 'ptrace', 'process_vm_readv', 'process_vm_writev'],
  ...['kill', 'tkill', 'pidfd_open', 'pidfd_getfd', 'kcmp', 'unshare', 'setns', 'mount', 'umount2'],
  ...['pivot_root', 'chroot', 'open_tree', 'move_mount', 'fsopen', 'fsmount', 'mount_setattr'],
  ...['bpf', 'perf_event_open', 'userfaultfd', 'keyctl', 'add_key', 'request_key', 'syslog'],
  ...['open_by_handle_at', 'name_to_handle_at', 'io_uring_setup', 'io_uring_register'],
  ...['truncate', 'mkdir', 'mkdirat', 'mknod', 'mknodat', 'unlink', 'unlinkat', 'rename'],
  ...['renameat', 'renameat2', 'link', 'linkat', 'symlink', 'symlinkat', 'chmod', 'fchmodat'],
  ...['setuid', 'setgid', 'setreuid', 'setregid', 'setresuid', 'setresgid', 'setgroups', 'capset'],
];

async function serveEgress(): Promise<void> {
  enclose();
  // Signals of the terminal are for the command; this process ends with kiln.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const) {
    process.on(signal, () => undefined);
  }
  let text = '';
  for await (const chunk of process.stdin.iterator({ destroyOnReturn: false })) {
    text += chunk;
    if (text.endsWith('\n')) break;
  }
  const log = new EgressLog();
  const listed = JSON.parse(text) as string[];
  const rules = parseEgressRules(listed.filter((host) => host !== PUBLIC_HOSTS));
  const learns = listed.includes(PUBLIC_HOSTS);
  const { server, close } = egressProxy({ rules, learns }, log);
  server.listen({ fd: LISTENER_FD });
  await once(server, 'listening');
  process.stdout.write('ready\n');
  process.stdin.resume();
  await once(process.stdin, 'end');
  close();
  // Connections that end now are counted with their bytes.
  await new Promise((resolve) => setImmediate(resolve));
  process.stdout.write(`${JSON.stringify(log.entries())}\n`);
}

function enclose(): void {
  const applyFilter = refuseSystemCalls(REFUSED);
  limitResource('core', 0);
  limitResource('fsize', 0);
  limitResource('nofile', 1024);
  process.setgroups?.([]);
  process.setgid?.(NOBODY);
  process.setuid?.(NOBODY);
  // Set after the change of ids, which would clear it.
  dieWithParent();
  setNoNewPrivileges();
  applyFilter();
}

serveEgress().then(
  () => process.exit(),
  (error) => {
    throw error;
  },
);
