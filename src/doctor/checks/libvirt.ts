import { KilnError } from '../../errors.ts';
import { connect } from '../../libvirt/connect.ts';
import { embeddedDaemonStatus } from '../../libvirt/embedded/daemon.ts';
import { pickEngine } from '../../libvirt/pick-engine.ts';
import { type Check, fail, ok, reason } from '../check.ts';
import { libvirtPatience } from '../probe.ts';

/**
 * The libvirt that would run a box answers and offers containers. The embedded one is started for
 * that where it does not run; it ends by itself when nobody uses it.
 */
export const libvirt: Check = {
  name: 'libvirt',
  async run({ paths, env, host }) {
    const install = host.install(
      host.family === 'debian'
        ? ['libvirt-daemon', 'libvirt-daemon-driver-lxc']
        : ['libvirt-daemon-driver-lxc'],
    );
    try {
      const engine = pickEngine(paths, env);
      const before = await embeddedDaemonStatus(paths);
      await using connection = await connect({ paths, env, endAfter: libvirtPatience() });
      const version = await connection.version();
      const capabilities = await connection.capabilities();
      const was =
        engine.kind === 'system'
          ? engine.uri
          : `embedded, ${before.running ? 'running' : 'started for this check'}`;
      if (!/<os_type>exe<\/os_type>/.test(capabilities)) {
        return fail(`libvirt ${version}, ${was}`, 'it offers no containers', install);
      }
      return ok(`libvirt ${version}, ${was}`);
    } catch (error) {
      const cause = error instanceof KilnError && error.cause !== undefined ? error.cause : error;
      const hint = error instanceof KilnError ? error.hint : undefined;
      const missing = error instanceof KilnError && error.code === 'E_LIBVIRT_MISSING';
      return fail(reason(error), reason(cause), missing ? install : (hint ?? install));
    }
  },
};
