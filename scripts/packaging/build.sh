#!/bin/sh
# Runs in a sandbox, called by main.ts: builds kiln from /input and packs it, into the working directory.
#   /input/source.tar   the checkout          /input/depends, /input/requires   what packages depend on
#   /node_modules       npm's packages        /toolchain                        Node with its headers, and npm
set -eu
umask 022
here=$(pwd)
# shellcheck disable=SC2034 # pack.sh uses them
version=$1 release=$2 debian=$3 arch=$4 node_arch=$5
mkdir source
tar -xf /input/source.tar -C source
ln -s /node_modules source/node_modules
PATH=/toolchain/node-linux-$node_arch/bin:$PATH
cd source
node scripts/build.ts
cd "$here"

# shellcheck disable=SC2034
source=$here/source modules=/node_modules toolchain=/toolchain input=/input
# shellcheck source=scripts/packaging/pack.sh
. /input/pack.sh

make_rpm() {
  mkdir -p rpmbuild/SOURCES
  install_tree "$here/rpmbuild/SOURCES/tree" site-functions
  install -D -m 644 source/LICENSE "$here/rpmbuild/SOURCES/tree/usr/share/licenses/kiln/LICENSE"
  touch -d "@$SOURCE_DATE_EPOCH" "$here/rpmbuild/SOURCES/tree/usr/share/licenses/kiln/LICENSE"
  sed -e "s/@VERSION@/$version/; s/@RELEASE@/$release/; s/@ARCH@/$arch/" -e '/@REQUIRES@/{r /input/requires
d}' -e '/@FUNCTIONS@/{r source/packaging/functions.sh
d}' -e "s/@DATE@/$(LC_ALL=C date -u -d "@$SOURCE_DATE_EPOCH" '+%a %b %d %Y')/" source/packaging/kiln.spec >rpmbuild/kiln.spec
  rpmbuild -bb --target "$arch" --define "_topdir $here/rpmbuild" rpmbuild/kiln.spec
  cp "rpmbuild/RPMS/$arch"/*.rpm .
}

make_npm() {
  for folder in source source/dist/client; do
    (cd "$folder" && node "/toolchain/npm/bin/npm-cli.js" pack --ignore-scripts --pack-destination "$here")
  done
}

make_deb
make_rpm
make_npm
