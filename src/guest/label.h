// SPDX-License-Identifier: Apache-2.0
// Mandatory access control, where the host has it: SELinux contexts, AppArmor profiles.
#ifndef KILN_LABEL_H
#define KILN_LABEL_H

#include <stddef.h>

#include "protocol.h"

// Reads FIELD_LABEL, if there is one: the first time, of MSG_PREPARE, takes on the init's own label
// where libvirt has not done so (AppArmor); then only the label of commands may be another one. 0, or
// -1 (errno).
int label_setup(const struct message *message);
// The context of every file system the init makes; NULL for the policy's own choice.
const char *label_files(void);
// In the command's process, before no_new_privs, after which no label can be left: takes on the
// label of commands. 0, or -1 (errno).
int label_enter(void);
// Appends NAME=LABEL to `facts`: this process's, as the kernel says; without one, nothing.
void label_measure(const char *name, char *facts, size_t size);
// In the command's process: 0 where it has the label that commands were to have, else FAIL_….
uint32_t label_missing(void);

#endif
