import { statSync } from 'node:fs';
import { join } from 'node:path';
import { RecipeError } from '../../recipe/problem.ts';
import { configurationFile, groupNumber, readUserPolicy } from '../../users/configuration.ts';
import { type Check, type Finding, fail, ok, warn } from '../check.ts';

/** Checks what lets users who are not root use kiln, and what the caller lacks. */
export const users: Check = {
  name: 'users',
  run: async ({ paths, env }) => {
    const file = configurationFile(env);
    let group: string | number;
    try {
      ({ group } = readUserPolicy(file));
    } catch (error) {
      if (!(error instanceof RecipeError)) throw error;
      const [first] = error.problems;
      const found = `${file}: ${error.problems.length} mistakes`;
      return warn(found, `users are refused: ${first?.message ?? ''}`, 'kiln config check');
    }
    const gid = groupNumber(group);
    const own = process.geteuid?.() ?? 0;
    if (gid === undefined) {
      const found = `there is no group ${group}: only root uses kiln`;
      if (own === 0) return ok(found);
      return fail(
        found,
        `you are user ${own}`,
        `groupadd --system ${group}; usermod -aG ${group} NAME, as root`,
      );
    }
    const isMember = [process.getegid?.(), ...(process.getgroups?.() ?? [])].includes(gid);
    if (own !== 0 && !isMember) {
      const mend = `usermod -aG ${group} NAME, as root; then log in again`;
      return fail(`the group ${group} uses kiln`, `you, user ${own}, are not in it`, mend);
    }
    return socketFinding(join(paths.hostRun, 'io.kiln'), group, gid);
  },
};

function socketFinding(socket: string, group: string | number, gid: number): Finding {
  const found = statSync(socket, { throwIfNoEntry: false });
  if (found === undefined) {
    return warn(
      `the group ${group} uses kiln, and no kilnd listens at ${socket}`,
      'users cannot start one',
      'systemctl enable --now kiln.socket (docs/administration.md), or any call of root’s',
    );
  }
  const isOpen = found.gid === gid && (found.mode & 0o060) === 0o060;
  if (isOpen) return ok(`the group ${group} uses kiln`);
  return warn(
    `${socket} is not the group’s`,
    `members of ${group} cannot connect`,
    'end kilnd, which the next call starts; with systemd, SocketMode= and SocketGroup= (docs/administration.md)',
  );
}
