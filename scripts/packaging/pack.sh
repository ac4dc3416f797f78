# What kiln's packages have in them. Sourced by build.sh, and by deb.ts for a .deb to be tried, with these set:
#   source       the checkout, built           modules   npm's packages
#   toolchain    the folder of Node's package  input     the folder of `depends` and `recommends`
#   here         where packages are made       version, release, debian (architecture), node_arch
#
# shellcheck shell=sh disable=SC2154 # see above

# install_tree FOLDER ZSH: what a package has, below FOLDER; ZSH is the distribution's folder for completions.
install_tree() {
  tree=$1
  lib=$tree/usr/lib/kiln
  share=$tree/usr/share
  mkdir -p "$lib/node_modules/node-linux-$node_arch/bin" "$lib/node_modules/@koromix" "$lib/src" \
    "$lib/scripts" "$tree/usr/bin" "$share/man" "$share/doc/kiln" "$share/bash-completion/completions" \
    "$share/zsh/$2" "$share/fish/vendor_completions.d" "$tree/usr/lib/systemd/system" \
    "$tree/usr/lib/sysusers.d" "$tree/usr/lib/tmpfiles.d"
  cp -a "$source/bin" "$source/dist" "$source/policy" "$source/recipes" "$source/package.json" "$source/LICENSE" "$lib/"
  for section in 1 5 8; do mv "$lib/dist/man/man$section" "$share/man/"; done
  gzip -9n "$share"/man/man[158]/*
  for name in kiln kiln-mock; do
    cp "$lib/dist/completions/kiln.bash" "$share/bash-completion/completions/$name"
    cp "$lib/dist/completions/kiln.fish" "$share/fish/vendor_completions.d/$name.fish"
    ln -s ../lib/kiln/dist/kiln "$tree/usr/bin/$name"
  done
  cp "$lib/dist/completions/_kiln" "$share/zsh/$2/_kiln"
  rm -r "$lib/dist/man" "$lib/dist/client"
  mkdir "$lib/src/api"
  cp "$source"/src/api/*.varlink "$lib/src/api/"
  # What it takes to link the programs anew with another C library.
  cp -r "$source/src/client" "$source/src/guest" "$lib/src/"
  cp "$source/scripts/host-packages.txt" "$source/scripts/fixtures" "$lib/scripts/"
  cp "$toolchain/node-linux-$node_arch/bin/node" "$lib/node_modules/node-linux-$node_arch/bin/"
  cp -rL "$modules/@koromix/koffi-linux-$node_arch" "$lib/node_modules/@koromix/"
  for name in koffi openpgp; do cp -rL "$modules/$name" "$lib/node_modules/$name"; done
  # What is for browsers, for compilers of TypeScript, for another C library, and what koffi is compiled with where no
  # binary fits.
  for name in vendor doc lib src/koffi/src/abi src/koffi/src/trampolines.cjs src/koffi/CMakeLists.txt cnoke.cjs CHANGELOG.md; do
    rm -rf "$lib/node_modules/koffi/${name:?}"
  done
  rm -rf "$lib"/node_modules/openpgp/dist/lightweight "$lib"/node_modules/openpgp/lightweight \
    "$lib"/node_modules/openpgp/dist/types "$lib"/node_modules/@koromix/*/musl_*
  rm "$lib"/node_modules/openpgp/dist/openpgp.* "$lib"/node_modules/openpgp/dist/node/*.map \
    "$lib"/node_modules/openpgp/dist/node/openpgp.cjs "$lib"/node_modules/openpgp/dist/node/openpgp.min.mjs
  find "$lib/node_modules" '(' -name '*.d.ts' -o -name '*.cc' -o -name '*.hh' -o -name '*.inc' -o -name '*.S' ')' -delete
  for unit in kiln.service kiln.socket; do
    sed -e 's,/opt/kiln,/usr/lib/kiln,' -e 's/^\[Unit\]$/[Unit]\nDocumentation=man:kilnd(8) man:kiln(1)/' -e 's/^SocketMode=.*/SocketMode=0660\nSocketGroup=kiln/' \
      "$source/units/$unit" >"$tree/usr/lib/systemd/system/$unit"
  done
  mkdir "$lib/units"
  cp "$source/units/grafana-kiln.json" "$lib/units/"
  cp "$source/packaging/sysusers.conf" "$tree/usr/lib/sysusers.d/kiln.conf"
  cp "$source/packaging/tmpfiles.conf" "$tree/usr/lib/tmpfiles.d/kiln.conf"
  cp -r "$source/docs" "$source/README.md" "$source/CHANGELOG.md" "$share/doc/kiln/"
  cp "$source/dist/THIRD-PARTY-NOTICES" "$share/doc/kiln/"
  chmod -R u=rwX,go=rX "$tree"
  find "$lib/node_modules" -name '*.node' -exec chmod a-x {} +
  find "$tree" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
}

make_deb() {
  install_tree "$here/deb" vendor-completions
  doc=deb/usr/share/doc/kiln
  # Debian has its text.
  rm "deb/usr/lib/kiln/LICENSE"
  ln -s ../../share/common-licenses/Apache-2.0 deb/usr/lib/kiln/LICENSE
  cp "$source/packaging/deb/copyright" "$doc/copyright"
  install -D -m 644 "$source/packaging/deb/lintian-overrides" deb/usr/share/lintian/overrides/kiln
  install -D -m 644 "$source/packaging/deb/needrestart.conf" deb/etc/needrestart/conf.d/kiln.conf
  { printf 'kiln (%s) unstable; urgency=medium\n\n  * CHANGELOG.md says what is new.\n\n' "$version-$release"
    printf ' -- kiln <kiln@kiln.invalid>  %s\n' "$(LC_ALL=C date -u -d "@$SOURCE_DATE_EPOCH" '+%a, %d %b %Y %H:%M:%S +0000')"
  } | gzip -9n >"$doc/changelog.Debian.gz"
  chmod 644 "$doc"/copyright "$doc"/changelog.Debian.gz
  find deb/usr deb/etc -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
  mkdir deb/DEBIAN
  echo /etc/needrestart/conf.d/kiln.conf >deb/DEBIAN/conffiles
  for script in preinst postinst prerm postrm; do
    { printf '#!/bin/sh\nset -e\n'; cat "$source/packaging/functions.sh" "$source/packaging/deb/$script"; } >"deb/DEBIAN/$script"
    chmod 755 "deb/DEBIAN/$script"
  done
  cat >deb/DEBIAN/control <<END
Package: kiln
Version: $version-$release
Architecture: $debian
Maintainer: kiln <kiln@kiln.invalid>
Section: devel
Priority: optional
Depends: $(cat "$input/depends")
Recommends: $(cat "$input/recommends")
Installed-Size: $(du -sk deb/usr | cut -f1)
Description: commands and builds in locked-down sandboxes on images of RPMs
 kiln runs one command or one build in a locked-down libvirt-lxc sandbox.
 Images are made of RPM packages, artifacts come out, and the sandbox is
 destroyed. It brings its own Node.
END
  (cd deb && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)
  dpkg-deb --root-owner-group "-Z${compression:-xz}" --build deb "kiln_$version-${release}_$debian.deb"
}
