import { runTool } from '../../host/process/child-process.ts';
import {
  ownLabel,
  type SecurityModule,
  securityModule,
  selinuxEnforces,
} from '../../sandbox/labels/module.ts';
import { isValidContext, policyModule, processContext } from '../../sandbox/labels/selinux.ts';
import { type Check, type Finding, fail, ok, warn } from '../check.ts';

/** Checks for a security module, and whether sandboxes get a label. */
export const securityModules: Check = {
  name: 'security-modules',
  async run() {
    const module = securityModule();
    if (module === undefined) return ok('neither SELinux nor AppArmor: sandboxes have no label');
    const own = ownLabel(module) ?? 'unknown';
    return module === 'selinux' ? selinux(own) : await apparmor(module, own);
  },
};

function selinux(own: string): Finding {
  const found = `SELinux, ${selinuxEnforces() ? 'enforcing' : 'permissive'}; kiln is ${own}`;
  if (!isValidContext(processContext('init', 'c0,c1'))) {
    return fail(
      `${found}; no policy module of kiln`,
      'sandboxes are refused',
      `semodule -i ${policyModule()}`,
    );
  }
  if (!selinuxEnforces()) {
    return warn(
      `${found}; kiln’s policy module is loaded`,
      'what a label does not allow is only logged',
      'setenforce 1, and SELINUX=enforcing in /etc/selinux/config',
    );
  }
  return ok(`${found}; kiln’s policy module is loaded`);
}

async function apparmor(module: SecurityModule, own: string): Promise<Finding> {
  if (own !== 'unconfined') {
    return warn(
      `AppArmor, kiln runs under the profile ${own}`,
      'a profile may forbid mounts and namespaces',
      'run kiln outside of that profile',
    );
  }
  const parser = await runTool('apparmor_parser', ['--version']);
  const version = /version ([\d.]+)/.exec(parser.stdout)?.[1];
  if (version !== undefined) return ok(`AppArmor, kiln unconfined; apparmor_parser ${version}`);
  return fail(
    `${module}, but no apparmor_parser`,
    'kiln’s profiles cannot be loaded, and without --label none sandboxes are refused',
    'install the package apparmor',
  );
}
