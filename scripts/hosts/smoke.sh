#!/bin/sh
# Runs on a host of scripts/test-hosts --smoke: what an administrator and a user do there with kiln's .deb, once.
#   smoke.sh LETTER           from the installation on; asks for a reboot (see kinds.ts)
#   smoke.sh LETTER booted    what must be there when the host has booted again
#   smoke.sh LETTER check FUNCTION   one check, called by the others so that it can be ended
# Writes TAP to /srv/results/tap.txt and, for whoever watches, to the second serial line.
# shellcheck disable=SC2317 # check() calls the functions
set -u
host=$1
results=/srv/results
count=$(grep -cE '^(not )?ok ' "$results/tap.txt" 2>/dev/null)
USER=walter
# Seconds for a check, of the machine's own clock, which goes slower than ours.
LIMIT=120

# The machine may be killed at any time.
say() {
  printf '%s\n' "$1" >>"$results/tap.txt"
  sync "$results/tap.txt"
  printf '%s\n' "$1" >/dev/ttyS1
}

# check WHAT FUNCTION: one result; what the function said shows if it failed, at any of its lines, or hung.
check() {
  count=$((count + 1))
  begun=$(cut -d. -f1 /proc/uptime)
  say "# $1"
  timeout -k 10 "$LIMIT" /bin/sh "$0" "$host" check "$2" >"$results/said.txt" 2>&1
  status=$?
  [ "$status" != 124 ] || echo "it has not ended within $LIMIT s of the machine’s own clock" >>"$results/said.txt"
  seconds=$(($(cut -d. -f1 /proc/uptime) - begun))
  { printf '== %s: status %s in %s s\n' "$1" "$status" "$seconds"; cat "$results/said.txt"; } >>"$results/smoke.log"
  if [ "$status" = 0 ]; then say "ok $count - $1"
  else
    say "not ok $count - $1"
    sed 's/^/    /' "$results/said.txt" >>"$results/tap.txt"
    sed 's/^/    /' "$results/said.txt" >/dev/ttyS1
  fi
}

# is FOUND PATTERN: whether all of a text is as an extended regular expression says.
is() {
  found=$(printf '%s\n' "$1" | tr -d '\0' | tr '\n' ' ')
  printf '%s\n' "${found% }" | grep -Eqx -- "$2" || { printf 'this is not %s: %s\n' "$2" "$1"; return 1; }
}

# ends STATUS WORDS…: whether a command ends so; what it says goes to standard output.
ends() {
  wanted=$1
  shift
  found=0
  "$@" || found=$?
  [ "$found" = "$wanted" ] || { printf '%s ended with %s\n' "$*" "$found"; return 1; }
}

# Not by su: under Debian's policy logind does not get on with pam_systemd, which waits for 25 s each second time.
by_user() { setpriv --reuid "$USER" --regid "$USER" --init-groups --reset-env sh -c "cd && $1"; }

case $host in
  a) label='libvirt-kiln-sandbox-[0-9a-f]{8} \(enforce\)' ;;
  b) label='system_u:system_r:kiln_t:s0:c[0-9]+,c[0-9]+' ;;
esac

# The first half parks nothing: each parked sandbox costs a machine as much as a command.
installed() {
  mkdir -p /etc/kiln
  printf 'defaults:\n  parked: 0\n' >/etc/kiln/kiln.yaml
  dpkg -i /srv/kiln.deb
  is "$(systemctl is-active kiln.socket)" active
  useradd -m -s /bin/sh -G kiln "$USER"
  is "$(stat -c '%U:%G %a' /run/kiln/io.kiln)" 'root:kiln 660'
}

imported() { kiln image import /srv/image --name smoke; }

nothing_to_mend() { ends 0 kiln doctor; }

runs_by_root() { is "$(ends 7 kiln run -r smoke -- sh -c 'cat /proc/self/attr/current; exit 7')" "$label"; }

runs_by_user() {
  said=$(ends 4 by_user "kiln run -r smoke -- sh -c 'cat /proc/self/attr/current; exit 4'")
  is "$said" "$label"
}

runs_on_host() { is "$(ends 5 kiln run -q -r host -- sh -c 'cat /proc/self/attr/current; exit 5')" "$label"; }

builds_by_root() {
  kiln build -r smoke --spec /srv/smoke.spec --resultdir /root/out
  [ -s /root/out/smoke-1-1.noarch.rpm ]
}

builds_by_user() {
  cp /srv/smoke.spec "/home/$USER/"
  by_user 'kiln build -r smoke --spec smoke.spec --resultdir out'
  is "$(stat -c %U "/home/$USER/out/smoke-1-1.noarch.rpm")" "$USER"
}

# Where neither a capability, seccomp nor the file's mode is in the way: the label alone.
keeps_apart() {
  case $host in
    a)
      mount='mount -t tmpfs tmpfs /tmp && echo mounted'
      mounts() { kiln run -r smoke --user root --cap-add SYS_ADMIN "$@" -- sh -c "$mount" || :; }
      is "$(mounts)" ''
      is "$(mounts --label none)" mounted
      dmesg | grep -q 'apparmor="DENIED" operation="mount".*profile="libvirt-kiln-sandbox-'
      ;;
    b)
      mkdir -m 777 /var/tmp/shared
      kiln run -r smoke --bind /var/tmp/shared:/d:rw,Z -- sh -c 'echo secret >/d/f; chmod 666 /d/f'
      said=$(ends 125 kiln run -r smoke --bind /var/tmp/shared:/d:rw -- cat /d/f 2>&1)
      printf '%s\n' "$said" | grep -q 'SELinux keeps /var/tmp/shared out of the sandbox'
      is "$(kiln run -r smoke --bind /var/tmp/shared:/d:rw,z -- cat /d/f)" secret
      ;;
  esac
}

service_starts() {
  kiln service create -r smoke s1 -- sh -c 'while true; do sleep 1; done'
  kiln service install --enable s1
  systemctl start kiln@s1.service
  service_runs
  rm /etc/kiln/kiln.yaml
}

service_runs() {
  for _ in $(seq 90); do
    if [ "$(systemctl is-active kiln@s1.service)" = active ]; then break; fi
    sleep 1
  done
  kiln service list s1 | grep -E '^s1 +running '
  is "$(kiln service execute s1 -- cat /proc/self/attr/current)" "$label"
}

# Sooner than systemd would kill it.
service_stops() {
  timeout 60 systemctl stop kiln@s1.service
  kiln service list s1 | grep -E '^s1 +stopped '
}

# kiln's own policy lets kiln's own init do all that it does.
nothing_denied() {
  case $host in
    a) ! dmesg | grep 'apparmor="DENIED".*profile="libvirt-kiln-init-' ;;
    b) ! grep -h 'avc: *denied.*scontext=[^ ]*:kiln_init_t:' /var/log/audit/audit.log ;;
  esac
}

if [ "${2:-}" = check ]; then
  set -e
  "$3"
elif [ "${2:-}" = booted ]; then
  check "$host: a service is there when the host has booted again" service_runs
  check "$host: a command runs by a user of the group when the host has booted again" runs_by_user
  check "$host: a service stops when it is asked to" service_stops
  check "$host: nothing is refused to the init of a sandbox" nothing_denied
  say "1..$count"
else
  check "$host: the .deb is installed; its socket is the group’s" installed
  check "$host: an image is imported" imported
  check "$host: kiln doctor finds nothing to mend" nothing_to_mend
  check "$host: a command runs by root, with its label" runs_by_root
  check "$host: a command runs by a user of the group, with its label" runs_by_user
  check "$host: a command runs on the host’s own /usr, with its label" runs_on_host
  check "$host: labels keep out what nothing else does" keeps_apart
  check "$host: a package is built by root" builds_by_root
  check "$host: a package is built by a user of the group" builds_by_user
  check "$host: a service starts under the host’s systemd" service_starts
  touch /srv/reboot
fi
