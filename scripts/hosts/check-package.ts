/** The .deb on a host with systemd: its units, a user in the group, an upgrade with a service that runs, the removal. */
import assert from 'node:assert/strict';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { execa } from 'execa';
import type { BusyboxState } from '../../test/support/busybox-state.ts';
import { course, faults, makeDebBefore } from '../../test/support/package-course.ts';
import { systemctl } from './services.ts';

const STATE = '/var/lib/kiln';

const LIBVIRT_SOCKETS = ['libvirtd.socket', 'libvirtd-ro.socket', 'libvirtd-admin.socket'];

/** Emulated, a run takes ten seconds and more. */
const PACE = 8;

/** What an administrator does next, and what a user may then. */
const INSTALLED = `systemctl is-enabled kiln.socket; systemctl is-active kiln.socket
    stat -c '%U:%G %a' /run/kiln/io.kiln
    useradd -m -s /bin/sh -G kiln walter
    su - walter -c 'kiln run -r busybox -- sh -c "echo of walter; exit 4"'; echo "walter $?"
    systemctl show -p ControlGroup --value kiln.service
    (su - walter -c 'kiln run -r busybox -- sh -c "sleep 150; echo of walter still"'; echo "walter’s job $?") &
    su - walter -c 'kiln run --detach --name later -r busybox -- sh -c "sleep 150; echo of walter later"'`;

/** What a user may do at once, before root has called the new kiln. */
const UPGRADED = `su - walter -c 'kiln run -r busybox -- echo of walter anew'
    su - walter -c 'kiln wait later; kiln logs later'`;

/** As administrators do it; what they need is on the disk. */
const install = (deb: string) => `apt-get -qq -y install --no-install-recommends ${deb}`;

/** @param deb the package @param state its image is used */
export async function checkPackage(deb: string, state: BusyboxState): Promise<void> {
  const before = '/var/tmp/before.deb';
  await makeDebBefore(deb, before);
  // That of the system is not kiln's.
  await systemctl('stop', ...LIBVIRT_SOCKETS);
  await systemctl('stop', 'libvirtd.service');
  await rm(STATE, { recursive: true, force: true });
  await execa('cp', ['-a', state.paths.root, STATE]);
  const script = course({
    install: install(before),
    installed: INSTALLED,
    upgrade: `${install(deb)} || echo "not upgraded"
    ${UPGRADED}`,
    list: 'dpkg -L kiln | tail -n +2',
    // What the administrator had systemd start with the host goes, too.
    remove: `kiln service install --enable s1; echo "unit $(systemctl is-enabled kiln@s1.service)"
    apt-get -qq -y remove kiln && ${install(deb)} && kiln run -r busybox -- echo installed again
    systemctl is-enabled kiln.socket; systemctl is-active kiln.socket
    apt-get -qq -y purge kiln; echo purged
    systemctl list-units --all --no-legend "kiln*" | grep -v kiln-job; systemctl list-timers --all | grep kiln
    find /etc/systemd -name "*kiln*" | grep -v kiln-job || true`,
    pace: PACE,
  });
  // By a file: the words of a process that runs would look like those of one of kiln's.
  await writeFile('/var/tmp/course.sh', script);
  const { HOME, PATH } = process.env;
  const env = { HOME, PATH: `/usr/local/sbin:/usr/local/bin:${PATH}` };
  const { stdout } = await execa('sh', ['/var/tmp/course.sh'], { env, extendEnv: false, cwd: '/' });
  // Nothing shows manuals there.
  const wrong = faults(stdout).filter((fault) => fault !== 'the manual is found');
  assert.deepEqual(wrong, [], stdout);
  assert.match(stdout, /^enabled\nactive\nroot:kiln 660$/m, stdout);
  assert.match(stdout, /^of walter\nwalter 4$/m, stdout);
  assert.match(stdout, /^of walter anew$/m, stdout);
  assert.match(stdout, /^of walter still\nwalter’s job 0$/m, stdout);
  assert.match(stdout, /^of walter later$/m, stdout);
  assert.match(stdout, /^unit enabled$/m, stdout);
  assert.match(stdout, /^installed again\nenabled\nactive$/m, stdout);
  assert.match(stdout, /\/kiln\.service$/m, stdout);
  const [, purged = ''] = stdout.split('\npurged\n');
  assert.doesNotMatch(purged, /kiln\S*\.(?:service|socket|target|timer)|\/etc\/systemd/, stdout);
  assert.match(stdout, /cannot access '\/run\/kiln'/, stdout);
  const profiles = await readFile('/sys/kernel/security/apparmor/profiles', 'utf8');
  assert.doesNotMatch(profiles, /kiln/);
  await rm(STATE, { recursive: true });
  // The other engine is the system's.
  await systemctl('start', ...LIBVIRT_SOCKETS);
}
