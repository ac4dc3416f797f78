// SPDX-License-Identifier: Apache-2.0
// Looks users up in the image's own /etc/passwd and /etc/group: untrusted text, read bounded.
#ifndef KILN_USERS_H
#define KILN_USERS_H

#include <sys/types.h>

#define GROUPS_MAX 64

struct user {
  uid_t uid;
  gid_t gid;
  gid_t groups[GROUPS_MAX];
  int ngroups;
  char name[64]; // empty when the id has no entry
  char home[256];
};

// `spec` is NAME|UID[:GROUP|GID]. 0, or -1 with errno ENOENT when a name is unknown.
int user_find(const char *spec, struct user *out);

#endif
