import { KilnError } from '../../errors.ts';
import type { SandboxSpecification } from '../../sandbox/policy/specification.ts';
import type { Tree } from '../lifecycle/tree.ts';

/** The target of a booted service: the units asked for, or those that the image has enabled. */
const TARGET = 'kiln.target';

const PROGRAMS = ['/usr/lib/systemd/systemd', '/lib/systemd/systemd'];

/** Files of the sandbox that make its systemd start these units and nothing else. */
export function systemFiles(units: readonly string[]): SandboxSpecification['files'] {
  const wanted = units.length === 0 ? ['multi-user.target'] : units;
  const content = `# Made by kiln: what this service is to run.
[Unit]
Description=The units of this service
Requires=basic.target
After=basic.target ${wanted.join(' ')}
Wants=${wanted.join(' ')}
`;
  return [{ path: `/run/systemd/system/${TARGET}`, mode: 0o644, content }];
}

/**
 * The command that boots a tree. In a container systemd also reads pid 1's arguments as the kernel's. Throws
 * E_NO_SYSTEMD.
 */
export function bootCommand(tree: Tree): string[] {
  const program = PROGRAMS.find((path) => tree.stat(path)?.isFile() === true);
  if (program === undefined) {
    throw new KilnError('E_NO_SYSTEMD', 'the image has no systemd to boot', {
      hint: 'add the package systemd to its recipe, or leave `boot` away: kiln runs units itself',
    });
  }
  return [
    program,
    `systemd.unit=${TARGET}`,
    // kiln's log gets the journal; pid 1's own progress would appear twice.
    'systemd.journald.forward_to_console=1',
    'systemd.show_status=0',
    // Nobody can log in on the console.
    'systemd.mask=console-getty.service',
  ];
}
