# What the scripts of the .deb and of the .rpm have in common; the build puts it into each of them.
# No percent signs: rpm would expand them.
lib=/usr/lib/kiln

# Before an upgrade. Programs that run (supervisors of services, kilnd with its last jobs) load parts of the
# bundle when they first need them. Those parts stay beside the new ones until the next upgrade.
keep_parts() {
  [ -d "$lib/dist" ] || return 0
  if [ -f "$lib/dist/.replaced" ]; then
    while read -r name; do rm -f "$lib/dist/$name"; done <"$lib/dist/.replaced"
    rm "$lib/dist/.replaced"
  fi
  rm -rf "$lib/.before"
  mkdir "$lib/.before"
  ln "$lib"/dist/*-????????.cjs "$lib/.before/"
}

# After an upgrade, when the files of the version before are gone.
restore_parts() {
  [ -d "$lib/.before" ] || return 0
  for part in "$lib"/.before/*.cjs; do
    name=$(basename "$part")
    if [ -e "$lib/dist/$name" ]; then continue; fi
    mv "$part" "$lib/dist/$name"
    echo "$name" >>"$lib/dist/.replaced"
  done
  rm -rf "$lib/.before"
}

# The group whose members may use kiln, the folders, units, and labels for SELinux.
set_up() {
  if command -v systemd-sysusers >/dev/null; then systemd-sysusers kiln.conf
  elif ! getent group kiln >/dev/null; then groupadd --system kiln
  fi
  mkdir -p /run/kiln /var/lib/kiln
  if command -v selinuxenabled >/dev/null && selinuxenabled; then
    semodule -i "$lib/policy/kiln.cil" || echo "kiln: SELinux did not take $lib/policy/kiln.cil; kiln doctor says more" >&2
    restorecon -R "$lib" || :
  fi
  if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
}

# Processes of this installation's daemon.
daemons() {
  for process in /proc/[0-9]*; do
    if grep -qzx -e "$lib/dist/kilnd.cjs" -e "$lib/dist/kilnd-worker.cjs" "$process/cmdline" 2>/dev/null; then echo "${process#/proc/}"; fi
  done
}

# After an upgrade. The next call of root's would have the kilnd that runs replaced, which ends with its last job; a
# user's cannot, and would be refused until then.
hand_over() {
  if [ -n "$(daemons)" ]; then timeout 60 /usr/bin/kiln ps -q >/dev/null 2>&1 || :; fi
}

# Before kiln is removed: services, kept sandboxes and daemons end. Images, services' files and volumes stay.
stop_all() {
  for service in /var/lib/kiln/services/*/; do
    if [ -d "$service" ]; then /usr/bin/kiln service stop "$(basename "$service")" || :; fi
  done
  if [ -n "$(ls /run/kiln/*/sandboxes 2>/dev/null)" ]; then /usr/bin/kiln kill --all >/dev/null || :; fi
  if [ -d /run/systemd/system ]; then systemctl stop kiln.socket kiln.service || :; fi
  # shellcheck disable=SC2046 # a list of numbers
  if [ -n "$(daemons)" ]; then kill $(daemons) || :; fi
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    if [ -z "$(daemons)" ]; then break; fi
    sleep 1
  done
  # Its libvirtd would end two minutes later.
  for link in /run/kiln/*/state; do
    if [ "$(readlink "$link")" != /var/lib/kiln ]; then continue; fi
    libvirtd=$(cat "$(dirname "$link")/libvirt/libvirtd.pid" 2>/dev/null || :)
    if [ -n "$libvirtd" ] && grep -qz libvirtd "/proc/$libvirtd/cmdline"; then kill "$libvirtd" || :; fi
  done
  if command -v selinuxenabled >/dev/null && selinuxenabled; then semodule -r kiln || :; fi
}

# AppArmor's profiles of sandboxes, which kiln loads by itself.
unload_profiles() {
  profiles=/sys/kernel/security/apparmor/profiles
  [ -r "$profiles" ] || return 0
  sed -n 's/^\(libvirt-kiln-[a-z]*-[0-9a-f]*\) .*/\1/p' "$profiles" | while read -r profile; do
    # The kernel wants the name alone.
    echo "$profile" | tr -d '\n' >/sys/kernel/security/apparmor/.remove || :
  done
}

# Units that `kiln service install` of this installation has written.
installed_units() {
  for folder in ${unit_folders:-/etc/systemd/system /run/systemd/system}; do
    if grep -qsF "$lib/" "$folder/kiln@.service"; then echo "$folder"; fi
  done
}

# They would fail at the next boot, for kiln is gone; `kiln service install --enable` starts them with the host again.
# A timer that runs fails as soon as its files go.
disable_units() {
  for folder in $(installed_units); do
    if [ -z "${unit_folders:-}" ] && [ -d /run/systemd/system ]; then systemctl stop kiln-logrotate.timer || :; fi
    find "$folder" -type l -path '*.wants/*' '(' -name 'kiln@*.service' -o -name kiln-logrotate.timer ')' -delete
  done
}

remove_units() {
  disable_units
  for folder in $(installed_units); do
    grep -rls '^# Written by .kiln service install.[.]$' "$folder" | while read -r file; do
      rm -f "$file"
      case $file in *.d/*) rmdir "$(dirname "$file")" 2>/dev/null || : ;; esac
    done
  done
  if [ -d /run/systemd/system ]; then systemctl daemon-reload || :; fi
}

# What is no file of the package, and no state. Other installations of kiln share /run/kiln.
clean_up() {
  rm -rf "$lib"
  # Only where nothing is in it.
  rmdir /var/lib/kiln 2>/dev/null || :
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    if ! grep -qsz -e /run/kiln/ -e 'kilnd[a-z-]*\.cjs' /proc/[0-9]*/cmdline; then
      rm -rf /run/kiln || :
      unload_profiles
      break
    fi
    sleep 1
  done
  if [ -d /run/systemd/system ]; then systemctl daemon-reload || :; fi
}
