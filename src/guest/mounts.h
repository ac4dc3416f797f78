// SPDX-License-Identifier: Apache-2.0
// Builds the sandbox's file system: from the skeleton libvirt started us in to the image.
#ifndef KILN_MOUNTS_H
#define KILN_MOUNTS_H

#include "protocol.h"

// First step: makes the skeleton read-only, with the flags of the mount it is on.
int mounts_seal_skeleton(void);
// In the nested init, once, before the use of the sandbox is known: makes /proc, with paths masked and closed
// as in `prepare`, and /dev, each in a place of the skeleton.
int mounts_stage(const struct message *prepare, struct failure *failure);
// Then: mounts lower, scratch, overlay and what was staged, pivots into the image, mounts private tmpfs, then
// what the request asks for. Afterwards the skeleton is unreachable.
int mounts_enter(const struct message *setup, struct failure *failure);
// Makes one directory, or gives an existing one this mode and owner. The last component is never a link,
// because commands may be running already.
int mounts_directory(const struct wire_directory *wanted);

// The steps of that, for later use by boot.h.
int mounts_tmpfs(const char *path, uint32_t mode, uint64_t bytes);
int mounts_new(const char *type, const char *path); // without options; nosuid, nodev, noexec
int mounts_copy(const char *from, const char *to);  // a file's mount on another name
int mounts_mask(const char *path);
int mounts_readonly(const char *path);

#endif
