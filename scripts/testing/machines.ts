const HOST_NETWORK = 'a machine is refused the host’s network';

/**
 * Test files that are run a second time by `scripts/test --long`, with KILN_TEST_PART=machines: their sandboxes are
 * machines then, of which they must be as true. The titles are of tests that are not, each with the reason.
 */
export const IN_MACHINES: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  'e2e/copy': {
    'what comes back has the times that it had': 'a machine packs times of whole seconds',
    'inside, the rights are those of the command’s user':
      'stage 0 packs files as root of the machine',
  },
  'e2e/exec': {},
  'e2e/explain-refusals': {},
  'e2e/isolation-options': {
    'only layers that a host may lack can be allowed to be missing':
      'its --allow-missing takes the place of the one for kvm, without which nothing is emulated',
  },
  'e2e/job-file': {},
  'e2e/living': {
    'top and stats say what /proc and the control group say':
      'the host sees no process of a command; test/machine/living.test.ts has top and stats',
    'stats go on until there is nothing left to tell':
      'a machine that ends is removed after it is dead, which stats show meanwhile',
  },
  'e2e/names': {
    'images without /etc, or with something else in its place, work': HOST_NETWORK,
    'name servers are the host’s on its network, and none with a proxy': HOST_NETWORK,
  },
  'e2e/result': {},
  'e2e/run': {
    'a command belongs to a domain that virsh lists, and has its own namespaces':
      'the host sees no process of a command; test/machine/run.test.ts looks at the domain',
    '^C ends the collection of artifacts, and the results are unchanged':
      'a machine fills holes: it would pack 15 GiB before anything is collected',
    'a sparse file of any size is refused at once':
      'a machine fills holes; test/machine/artifacts.test.ts has files that are too large',
    'a run leaves no processes, mounts, folders or id ranges':
      'it looks for libvirt’s logs of containers; test/machine/killed.test.ts looks at what machines leave',
  },
  'e2e/sandbox-names': {},
  'escape/escape': {
    'NET_ADMIN allows the calls that a firewall needs':
      'netfilter is modules of the kernel, which a machine does not have',
    'on the host’s network, its abstract sockets cannot be reached': HOST_NETWORK,
  },
  'escape/host-side': {},
};
