import { shellWord } from '../../shell-words.ts';
import type { DeferredOwner } from '../tree/compose.ts';

/**
 * A shell script that gives files the owners that their packages name, as rpm does when it unpacks: an unknown
 * owner becomes root, and the file then loses set-user-id or set-group-id (rpmfilesStat in rpm's lib/rpmfi.c).
 */
export function ownersScript(deferred: readonly DeferredOwner[]): string {
  const groups = new Map<string, DeferredOwner[]>();
  for (const entry of deferred) {
    const { owner, group, mode, type } = entry.file;
    // A link has no mode of its own.
    const wanted = type === 'symlink' ? '' : (mode & 0o7777).toString(8);
    const key = [wanted, owner, group].map(shellWord).join(' ');
    groups.set(key, [...(groups.get(key) ?? []), entry]);
  }
  const calls = [...groups].map(
    ([key, entries]) => `own ${key} ${entries.map((entry) => shellWord(entry.path)).join(' ')}\n`,
  );
  return `${OWN_FUNCTION}${calls.join('')}`;
}

const OWN_FUNCTION = `own() {
  mode=$1 owner=$2 group=$3
  shift 3
  [ "$owner" = root ] || chown -h -- "$owner" "$@" 2>/dev/null || {
    echo "user $owner does not exist - using root"
    [ -z "$mode" ] || mode=$(printf %o "$((0$mode & ~04000))")
  }
  [ "$group" = root ] || chgrp -h -- "$group" "$@" 2>/dev/null || {
    echo "group $group does not exist - using root"
    [ -z "$mode" ] || mode=$(printf %o "$((0$mode & ~02000))")
  }
  [ -z "$mode" ] || chmod -- "$mode" "$@"
}
`;
