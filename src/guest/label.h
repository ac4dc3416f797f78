// SPDX-License-Identifier: Apache-2.0
#ifndef KILN_LABEL_H
#define KILN_LABEL_H

#include <stddef.h>

#include "protocol.h"

// MSG_PREPARE sets the init's own label (AppArmor); later only that of commands may differ. 0, or -1 (errno).
int label_setup(const struct message *message);
// The context of every file system that the init makes; NULL for the policy's own choice.
const char *label_files(void);
// In the command's process, before no_new_privs, after which no label can be changed. 0, or -1 (errno).
int label_enter(void);
void label_measure(const char *name, char *facts, size_t size);
uint32_t label_missing(void);

#endif
