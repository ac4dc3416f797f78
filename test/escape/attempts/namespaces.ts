import type { Attempt } from '../attempt.ts';

/** Of other namespaces, and of the init, which is in another one. */
export const namespaceAttempts: readonly Attempt[] = [
  {
    verb: 'unshare-user',
    tries: 'a user namespace, to be root in it',
    layer: 'namespaces',
    without: 'bare',
  },
  { verb: 'clone-user', tries: 'the same with clone(2)', layer: 'namespaces', without: 'bare' },
  {
    verb: 'clone3-user',
    tries: 'the same with clone3(2), whose flags a filter cannot see',
    layer: 'namespaces',
    without: 'bare',
  },
  {
    verb: 'unshare-mounts',
    tries: 'a mount namespace of its own',
    layer: 'namespaces',
    without: 'bare',
  },
  {
    verb: 'unshare-pids',
    tries: 'a pid namespace of its own',
    layer: 'namespaces',
    without: 'bare',
  },
  { verb: 'unshare-network', tries: 'a network of its own', layer: 'namespaces', without: 'bare' },
  {
    verb: 'unshare-cgroups',
    tries: 'a cgroup namespace of its own',
    layer: 'namespaces',
    without: 'bare',
  },
  {
    verb: 'enter-init-namespace',
    tries: 'the namespaces of the init',
    layer: 'namespaces',
    without: 'bare',
  },
  {
    verb: 'trace-init',
    tries: 'tracing the init, to make it lie',
    layer: 'namespaces',
    without: 'bare',
  },
  {
    verb: 'read-init-memory',
    tries: 'the memory of the init',
    layer: 'namespaces',
    without: 'bare',
  },
  {
    verb: 'open-init-memory',
    tries: 'the memory of the init as a file',
    layer: 'namespaces',
    without: 'bare',
  },
  {
    verb: 'take-init-descriptor',
    tries: 'the connection to kiln, to forge answers',
    layer: 'namespaces',
    without: 'bare',
  },
  {
    verb: 'list-init-descriptors',
    tries: 'what the init has open',
    layer: 'namespaces',
    without: 'bare',
  },
  {
    verb: 'open-init-root',
    tries: 'the root directory of the init',
    layer: 'namespaces',
    without: 'bare',
  },
  {
    verb: 'read-init-environment',
    tries: 'the environment of the init',
    layer: 'namespaces',
    without: 'bare',
  },
  {
    verb: 'init-oom-score',
    tries: 'that the init is killed first when memory is short',
    layer: 'namespaces',
    as: 'user', // root of the sandbox may harm its own init, and so end its own sandbox
    without: 'user',
  },
  {
    verb: 'kill-init',
    tries: 'killing the init',
    layer: 'namespaces',
    cannotBeWithout: 'the kernel gives the first process of a namespace no SIGKILL from inside it',
  },
  {
    verb: 'see-other-processes',
    tries: 'processes of the host',
    layer: 'namespaces',
    without: 'sandbox',
  },
  {
    verb: 'cgroup-names',
    tries: 'where in the host’s cgroups it is',
    layer: 'namespaces',
    without: 'cgroup-namespace',
  },
  {
    verb: 'host-shared-memory',
    tries: 'shared memory of the host',
    layer: 'namespaces',
    as: 'root',
    without: 'sandbox',
  },
];
