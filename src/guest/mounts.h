// SPDX-License-Identifier: Apache-2.0
#ifndef KILN_MOUNTS_H
#define KILN_MOUNTS_H

#include "protocol.h"

// The most terminals of a sandbox: all sandboxes share the host's (kernel.pty.max, 4096).
#define TERMINALS "64"

// Makes what is mounted there read-only, with the flags of the mount it is on.
int mounts_seal(const char *path);
// In the nested init, before the sandbox's use is known: stages /proc, as `prepare` closes it, and /dev.
int mounts_stage(const struct message *prepare, struct failure *failure);
// Then: pivots into the image and mounts what `setup` asks for. The skeleton is unreachable afterwards.
int mounts_enter(const struct message *setup, struct failure *failure);
// The folder of what is written above a lower layer, of which the root's is the first, then those of FIELD_BIND.
int mounts_layer(uint32_t nth);
// Between commands, when no other process is left: a new root of other layers, on which everything is mounted that is
// on the old one. 0; 1 if it failed and the old root stays; -1 if neither is whole.
int mounts_again(const struct message *wanted, struct failure *failure);
// Never follows a link in the last component: commands may be running already.
int mounts_directory(const struct wire_directory *wanted);

int mounts_tmpfs(const char *path, uint32_t mode, uint64_t bytes);
int mounts_new(const char *type, const char *path);
int mounts_copy(const char *from, const char *to);
int mounts_mask(const char *path);
int mounts_readonly(const char *path);

#endif
