import { ensureBootFiles } from '../../sandbox/domain/machine/boot-files.ts';
import { knownKvm, tryKvm } from '../../sandbox/domain/machine/kvm.ts';
import { machinePrograms } from '../../sandbox/domain/machine/programs.ts';
import { type Check, ok, reason, warn } from '../check.ts';

/** Nothing but `--isolation vm` needs what is missing here. */
export const machines: Check = {
  name: 'machines',
  async run({ paths, host }, isNamed) {
    const without = '`--isolation vm` is refused; nothing else needs it';
    const missing = await host.missing(['machine']);
    const names = missing.map((need) => need.package).filter((name) => name !== undefined);
    if (names.length > 0) {
      const found = `missing: ${missing.map(({ what }) => what).join(', ')}`;
      if (!isNamed) return ok(`none, which only \`--isolation vm\` needs; ${found}`);
      return warn(found, without, host.install([...new Set(names)]));
    }
    // Most who ask for all checks have no use for machines, and a guest takes seconds.
    if (!isNamed) return ok(toldOf(knownKvm(paths)));
    try {
      machinePrograms();
      const boot = await ensureBootFiles(paths);
      const why = await tryKvm(paths, boot);
      if (why === undefined) return ok(`a guest was started with KVM; kernel ${boot.release}`);
      return warn(
        `no KVM: ${why}`,
        'machines are refused, or emulated with `--allow-missing kvm`: slow, and no boundary',
        'load kvm_intel or kvm_amd; in a virtual machine, allow nested ones',
      );
    } catch (error) {
      return warn(reason(error), without, 'see docs/machines.md');
    }
  },
};

function toldOf(known: ReturnType<typeof knownKvm>): string {
  if (known === undefined) return 'not tried: `kiln doctor machines` starts a guest';
  if (known.why === undefined) return 'guests start with KVM';
  return `by emulation alone, with \`--allow-missing kvm\`: ${known.why}`;
}
