# Brings a machine to where kiln's own TypeScript can run. Sourced, by scripts/quickstart and
# scripts/test, as `. scripts/bootstrap.sh; bootstrap USE…` with the uses of host-packages.txt.
# Sets `node` to a Node 24. What is there already is not touched, so a repeat costs milliseconds.
# Everything lands in the checkout (.cache, node_modules) or comes from the system's package manager.
#
# shellcheck shell=sh disable=SC2034 # it sets variables for whoever sources it

say() { printf '%s\n' "==> $*"; }
die() { printf '%s\n' "kiln: $*" >&2; exit 1; }

# Prints what the script is for, the comment at its head, where that is asked for.
explain() {
  case ${1:-} in
    -h | --help) sed -n '/^#!/d; /^#/!q; s/^# \{0,1\}//p' "$0"; exit 0 ;;
  esac
}

top=$(cd "$(dirname "$0")/.." && pwd -P) || exit 1
toolchain=$top/.cache/toolchain

# --- the system's packages --------------------------------------------------------------------

# Prints the package manager kiln knows on this machine: apt or dnf.
package_manager() {
  if command -v apt-get >/dev/null 2>&1 && [ -e /var/lib/dpkg/status ]; then echo apt
  elif command -v dnf >/dev/null 2>&1; then echo dnf
  fi
}

# Is there any file that one of the comma-separated globs in $1 matches?
any_file() {
  saved_ifs=$IFS; IFS=,
  # shellcheck disable=SC2086 # globs are meant to expand
  set -- $1
  IFS=$saved_ifs
  for match in "$@"; do [ -e "$match" ] && return 0; done
  return 1
}

# Is the need $1 (see host-packages.txt) met?
met() {
  case $1 in
    command:*) command -v "${1#command:}" >/dev/null 2>&1 ;;
    library:*) case $libraries in *"${1#library:} "*) return 0 ;; *) return 1 ;; esac ;;
    file:*) any_file "${1#file:}" ;;
    *) die "scripts/host-packages.txt: unknown kind of need: $1" ;;
  esac
}

# Prints the packages that the uses in $2… need and this machine lacks; $1 is the package manager.
missing_packages() {
  manager=$1; shift
  libraries=$(PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null)
  while read -r use need debian fedora _suse; do
    case $use in ''|'#'*) continue ;; esac
    case " $* " in *" $use "*) ;; *) continue ;; esac
    met "$need" && continue
    case $manager in apt) package=$debian ;; *) package=$fedora ;; esac
    [ "$package" = - ] || echo "$package"
  done <"$top/scripts/host-packages.txt" | sort -u | tr '\n' ' '
}

install_with() {
  manager=$1; shift
  [ "$(id -u)" = 0 ] || die "installing $* needs root: run this as root"
  case $manager in
    apt)
      # Lists may be missing (a fresh container) or name versions that are gone (an old machine).
      ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 || apt_update
      apt_install "$@" || { apt_update; apt_install "$@"; }
      ;;
    dnf) dnf -y -q --setopt=install_weak_deps=False install "$@" ;;
  esac
}

apt_update() {
  say "fetching the package lists"
  apt-get -qq -o DPkg::Lock::Timeout=300 update || die "apt-get update failed"
}

apt_install() {
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
    -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install "$@" </dev/null
}

# Installs what the uses in $@ lack.
install_packages() {
  manager=$(package_manager)
  missing=$(missing_packages "${manager:-apt}" "$@")
  [ -n "$missing" ] || return 0
  [ -n "$manager" ] || die "no package manager that kiln knows (apt, dnf); install these first: $missing"
  say "installing with $manager: $missing"
  # shellcheck disable=SC2086 # a list of words
  install_with "$manager" $missing || die "$manager could not install: $missing"
  still=$(missing_packages "$manager" "$@")
  [ -z "$still" ] || die "still missing after the installation: $still"
}

# --- Node ---------------------------------------------------------------------------------------

# Is $1 a Node that kiln can run on?
new_enough() {
  [ -n "$1" ] && "$1" -e 'process.exit(Number(process.versions.node.split(".")[0]) >= 24 ? 0 : 1)' 2>/dev/null
}

# Sets `node` to the locked one of the checkout, or to one on PATH that is new enough; brings the
# locked one (with its own npm, since an npm under an old Node resolves engines wrongly) if neither is there.
find_node() {
  case $(uname -m) in
    x86_64) arch=x64 ;;
    aarch64) arch=arm64 ;;
    *) arch=none ;;
  esac
  locked=$toolchain/node_modules/node-linux-$arch/bin/node
  for node in "${KILN_NODE:-}" "$locked" "$(command -v node || true)"; do
    new_enough "$node" && return 0
  done
  [ "$arch" != none ] || die "no Node for $(uname -m) among kiln's packages: install Node 24 and name it in KILN_NODE"
  if ! command -v npm >/dev/null 2>&1; then
    case $(package_manager) in
      apt) say "installing with apt: npm"; install_with apt npm || die "apt could not install npm" ;;
      dnf) say "installing with dnf: nodejs-npm"; install_with dnf nodejs-npm || die "dnf could not install npm" ;;
      *) die "no Node 24 and no npm to bring one: install Node 24 and name it in KILN_NODE" ;;
    esac
    node=$(command -v node || true)
    new_enough "$node" && return 0
  fi
  say "bringing Node 24 (npm package node-linux-$arch) into .cache/toolchain"
  mkdir -p "$toolchain"
  cp "$top/scripts/setup/toolchain/package.json" "$top/scripts/setup/toolchain/package-lock.json" "$top/.npmrc" "$toolchain/"
  (cd "$toolchain" && npm ci --no-audit --loglevel=error </dev/null) || die "npm could not bring Node 24"
  node=$locked
  new_enough "$node" || die "$node does not run on this machine"
}

# Installs the packages of package-lock.json, under $node, unless they are all there already.
install_node_modules() {
  "$node" "$top/scripts/setup/node-modules-whole.ts" && return 0
  say "installing kiln's npm packages (npm ci)"
  npm_cli=$toolchain/node_modules/npm/bin/npm-cli.js
  PATH=$(dirname "$node"):$PATH
  export PATH
  if [ -f "$npm_cli" ]; then
    (cd "$top" && "$node" "$npm_cli" ci --no-audit --loglevel=error </dev/null)
  else
    (cd "$top" && npm ci --no-audit --loglevel=error </dev/null)
  fi || die "npm ci failed"
}

# Makes kiln's own files readable for kiln's confined children, whose ids are nobody's: in a clone made
# under umask 077 they are not. The checkout's folder and those above stay as closed as they are.
make_readable() {
  for part in bin src policy package.json node_modules .cache/toolchain dist; do
    [ -e "$top/$part" ] || continue
    [ -z "$(find "$top/$part" -prune ! -perm -004)" ] || chmod -R go+rX "$top/$part"
  done
}

# bootstrap USE…
bootstrap() {
  # `su` without `-` keeps the PATH of a user, which has no folder for root's programs.
  PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
  export PATH
  # What is installed and built is for more than whoever does it.
  umask 022
  [ "$(uname -s)" = Linux ] || die "kiln runs on Linux only"
  install_packages "$@"
  find_node
  install_node_modules
  make_readable
  # Scripts and tests that call `node` or a tool of node_modules get the right ones.
  # An npm brought along comes before the machine's, which may not work under this Node.
  PATH=$toolchain/node_modules/.bin:$(dirname "$node"):$top/node_modules/.bin:$PATH
  KILN_NODE=$node
  export PATH KILN_NODE
}
