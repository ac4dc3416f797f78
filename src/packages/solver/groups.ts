import { KilnError } from '../../errors.ts';
import type { Group, GroupPackage } from '../repository/metadata/comps.ts';

/** What dnf installs of a group unless told otherwise (its `group_package_types`). */
const INSTALLED: readonly GroupPackage['type'][] = ['mandatory', 'default', 'conditional'];

/** What a group stands for. */
export interface GroupMembers {
  /** Package names, to be installed where they exist. */
  readonly members: string[];
  readonly conditional: { readonly name: string; readonly requires: string }[];
}

/**
 * Replaces `@group` and `@^environment` by their packages. A group that several repositories know
 * is the union of what they say.
 * @param wanted ids or names, without the @.
 * @throws KilnError E_SOLVER_NO_MATCH for a group that no repository knows.
 */
export function expandGroups(known: readonly Group[], wanted: readonly string[]): GroupMembers {
  const members = new Set<string>();
  const conditional = new Map<string, { name: string; requires: string }>();
  for (const text of wanted) {
    const groups = findGroups(known, text);
    if (groups.length === 0) throw noGroup(known, text);
    for (const { name, type, requires } of groups.flatMap((group) => group.packages)) {
      if (!INSTALLED.includes(type)) continue;
      if (type !== 'conditional') members.add(name);
      else if (requires) conditional.set(`${name} if ${requires}`, { name, requires });
    }
  }
  return { members: [...members], conditional: [...conditional.values()] };
}

function findGroups(known: readonly Group[], text: string): Group[] {
  const wanted = text.replace(/^\^/, '');
  const direct = known.filter(
    ({ id, name }) => id === wanted || name.toLowerCase() === wanted.toLowerCase(),
  );
  const inner = direct.flatMap(({ groups }) => groups);
  return [...direct, ...known.filter(({ kind, id }) => kind === 'group' && inner.includes(id))];
}

function noGroup(known: readonly Group[], text: string): KilnError {
  const ids = [...new Set(known.map(({ id }) => id))].sort();
  const near = ids.filter((id) => id.includes(text) || text.includes(id)).slice(0, 5);
  const some = near.length > 0 ? near : ids.slice(0, 10);
  return new KilnError('E_SOLVER_NO_MATCH', `no repository has a group called ${text}`, {
    hint:
      some.length === 0
        ? 'none of these repositories has groups (comps) at all'
        : `groups there are: ${some.join(', ')}${ids.length > some.length ? ', …' : ''}`,
    details: { group: text },
  });
}
