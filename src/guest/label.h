// SPDX-License-Identifier: Apache-2.0
// Mandatory access control, where the host has it: SELinux contexts, AppArmor profiles.
#ifndef KILN_LABEL_H
#define KILN_LABEL_H

#include <stddef.h>

#include "protocol.h"

// Reads FIELD_LABEL, if there is one. In MSG_PREPARE it takes on the init's own label where libvirt has not
// done so (AppArmor); later only the label of commands may differ. 0, or -1 (errno).
int label_setup(const struct message *message);
// The context of every file system that the init makes; NULL for the policy's own choice.
const char *label_files(void);
// In the command's process, before no_new_privs, after which no label can be changed: takes on the label of
// commands. 0, or -1 (errno).
int label_enter(void);
// Appends NAME=LABEL to `facts`, this process's label by the kernel; nothing if there is none.
void label_measure(const char *name, char *facts, size_t size);
// In the command's process: 0 if it has the label of commands, otherwise FAIL_….
uint32_t label_missing(void);

#endif
