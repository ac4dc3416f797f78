/** What everybody does with an installation of kiln: installs it, runs jobs and a service, upgrades, removes it. */
import { execa } from 'execa';

export interface PackageCommands {
  readonly install: string;
  readonly upgrade: string;
  /** Prints the files of the package. */
  readonly list: string;
  readonly remove: string;
  /** For sh, once kiln is installed; what `faults` does not look at. */
  readonly installed?: string;
  /** How often longer than on a machine of today a run takes. */
  readonly pace?: number;
}

/** All that is no state, no log and no record of the package manager's. */
const FILES = `find /usr /etc /opt /var -xdev \\( -path /var/lib/kiln -o -path /var/lib/dpkg -o -path /var/lib/rpm \\
  -o -path /var/cache -o -path /var/log -o -path /var/tmp -o -path /usr/lib/sysimage \\
  -o -path /var/lib/systemd \\) -prune -o -print | sort`;

/** The script, for sh, as root, where /var/lib/kiln has the image busybox. */
export function course(commands: PackageCommands): string {
  const { install, upgrade, list, remove, installed = '', pace = 1 } = commands;
  return `exec 2>&1
    ${FILES} >/tmp/before
    command -v kiln && echo "kiln was there before"
    ${install} || echo "not installed"
    ${installed}
    getent group kiln >/dev/null && echo "the group is there"
    kiln --version
    man -w kiln-run kiln-mock
    kiln run -r busybox -- sh -c 'echo from the sandbox; exit 3'; echo "status $?"
    kiln-mock --version
    kiln service create -r busybox s1 -- sh -c 'while true; do sleep 1; done'
    kiln service start s1; kiln service list
    (kiln run -r busybox -- sh -c 'sleep ${15 * pace}; echo the job goes on'; echo "job $?") &
    sleep ${5 * pace}
    ${upgrade} || echo "not upgraded"
    cat /usr/lib/kiln/dist/.replaced 2>/dev/null
    kiln service list
    kiln run -r busybox -- echo from the next version
    wait
    kiln service stop s1 && echo "the service of the version before stopped"
    kiln service start s1
    kiln run -r busybox --keep -- true
    ${list} >/tmp/owned
    ${remove} || echo "not removed"
    ls /usr/bin/kiln*
    ps -eo pid,args | grep -E 'kiln[d]|libvirt[d]|kiln-ini[t]'
    ${FILES} >/tmp/after
    # What is kiln's by its name, or was a file of the package. Others may install packages on this host meanwhile.
    diff /tmp/before /tmp/after | grep kiln
    while read -r path; do
      if [ -e "$path" ] && ! grep -qxF "$path" /tmp/before; then echo "> $path"; fi
    done </tmp/owned
    wc -l </tmp/owned
    ls /run/kiln
    ls /var/lib/kiln/services`;
}

/** Which of the things that a course is to have printed are not there, or the reverse. */
export function faults(output: string): string[] {
  const [, after = ''] = output.split('kiln: kept as ');
  const wanted: readonly (readonly [string, boolean])[] = [
    [
      'packages are changed',
      !/kiln was there before|not (?:installed|upgraded|removed)/.test(output),
    ],
    ['the group is made', /^the group is there$/m.test(output)],
    ['the manual is found', /^\/usr\/share\/man\/man1\/kiln-run\.1/m.test(output)],
    ['a command runs', /^from the sandbox\nstatus 3$/m.test(output)],
    ['a service runs before and after', output.match(/^s1 +running /gm)?.length === 2],
    ['the next version runs', /^from the next version$/m.test(output)],
    ['a job outlives the upgrade', /^the job goes on\njob 0$/m.test(output)],
    ['an older service stops', /^the service of the version before stopped$/m.test(output)],
    ['no process is left', !/kilnd|libvirtd|kiln-init/.test(after)],
    ['no file is left', !/^[<>] \//m.test(after)],
    ['the list of its files is known', /^\d{3,}$/m.test(after)],
    ['the state is left', /^s1$/m.test(after)],
  ];
  return wanted.filter(([, holds]) => !holds).map(([what]) => what);
}

/** Makes of a .deb the one of a version before: of another build, with a part that the next one lacks. */
export async function makeDebBefore(deb: string, before: string): Promise<void> {
  const script = `set -e; rm -rf "$2.tree"; dpkg-deb -R "$1" "$2.tree"
    sed -i 's/^\\(Version: .*\\)-[0-9]*$/\\1-0/' "$2.tree/DEBIAN/control"
    echo 'module.exports = 1;' >"$2.tree/usr/lib/kiln/dist/before-aaaaaaaa.cjs"
    echo 00000000000000000000000000000000 >"$2.tree/usr/lib/kiln/dist/build-id"
    dpkg-deb --root-owner-group -Znone -b "$2.tree" "$2"; rm -r "$2.tree"`;
  await execa('sh', ['-c', script, 'sh', deb, before]);
}
