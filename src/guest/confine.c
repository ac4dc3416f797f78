// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "confine.h"

#include <grp.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "faults.h"
#include "label.h"
#include "landlock.h"

// Keeps only the named capabilities: in force for container root, ambient for other users, who have none unless
// the request says so.
static int drop_privileges(uint64_t keep, const struct user *user) {
  for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
    if (!(keep >> cap & 1) && !fault("capabilities") && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0)
      return -1;
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0) return -1;
  if (keep != 0 && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0) return -1;
  if (setgroups((size_t)user->ngroups, user->groups) != 0 ||
      setresgid(user->gid, user->gid, user->gid) != 0 ||
      (!fault("user") && setresuid(user->uid, user->uid, user->uid) != 0))
    return -1;
  uint64_t inherit = user->uid == 0 ? 0 : keep;
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2] = {
      {(uint32_t)keep, (uint32_t)keep, (uint32_t)inherit},
      {(uint32_t)(keep >> 32), (uint32_t)(keep >> 32), (uint32_t)(inherit >> 32)}};
  if (syscall(SYS_capset, &header, data) != 0) return -1;
  for (int cap = 0; cap < 64; cap++)
    if (inherit >> cap & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) != 0) return -1;
  return 0;
}

uint32_t confine(const struct confinement *wanted, const struct user *user, const char *cwd,
                 struct landlock *found) {
  *found = (struct landlock){0};
  int rules = -1;
  uint32_t walls = wanted->landlock & ~(uint32_t)WALL_OPEN_SOCKETS;
  if (walls != 0 && (rules = landlock_rules(walls)) < 0) return FAIL_LANDLOCK;
  if (syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC) != 0 ||
      (fault("descriptors") && dup(0) < 0))
    return FAIL_DESCRIPTORS;
  if (drop_privileges(wanted->capabilities, user) != 0) return FAIL_PRIVILEGES;
  if (chdir(cwd) != 0) return FAIL_CHDIR;
  if (label_enter() != 0) return FAIL_COMMAND_LABEL;
  if (!fault("no_new_privs") && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
    return FAIL_NO_NEW_PRIVILEGES;
  if (walls != 0 && (found->abi = landlock_enter(rules, walls, &found->walls)) < 0)
    return FAIL_LANDLOCK;
  return 0;
}
