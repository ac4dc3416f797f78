import { readFile } from 'node:fs/promises';
import { type Check, ok, warn } from '../check.ts';

/** Which security modules watch over this host, and whether they let kiln work. */
export const securityModules: Check = {
  name: 'security-modules',
  async run() {
    const enforcing = await readFile('/sys/fs/selinux/enforce', 'utf8').catch(() => undefined);
    if (enforcing?.trim() === '1') {
      return warn(
        'SELinux, enforcing',
        'a policy may forbid what libvirt_lxc does; nobody has run kiln under every policy',
        'if a run fails, see what was denied: ausearch -m avc -ts recent',
      );
    }
    const modules = (await readFile('/sys/kernel/security/lsm', 'utf8').catch(() => '')).trim();
    const apparmor = await readFile('/sys/module/apparmor/parameters/enabled', 'utf8').catch(
      () => '',
    );
    const own = (await readFile('/proc/self/attr/current', 'utf8').catch(() => ''))
      .replaceAll('\0', '')
      .trim();
    const confined = apparmor.startsWith('Y') && own !== '' && own !== 'unconfined';
    if (confined) {
      return warn(
        `AppArmor, kiln runs under the profile ${own}`,
        'a profile may forbid mounts and namespaces',
        'run kiln outside of that profile',
      );
    }
    const parts = [
      enforcing === undefined ? undefined : 'SELinux, permissive',
      apparmor.startsWith('Y') ? 'AppArmor, kiln unconfined' : undefined,
    ].filter((part) => part !== undefined);
    const named = parts.length > 0 ? parts.join('; ') : 'neither SELinux nor AppArmor';
    return ok(modules === '' ? named : `${named} (${modules})`);
  },
};
