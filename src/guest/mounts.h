// SPDX-License-Identifier: Apache-2.0
// Builds the sandbox's file system: from the skeleton libvirt started us in to the image.
#ifndef KILN_MOUNTS_H
#define KILN_MOUNTS_H

#include "protocol.h"

// First of all: makes the skeleton read-only, keeping the flags of the mount it is on.
int mounts_seal_skeleton(void);
// In the nested init, once, before it is known what the sandbox is for: /proc, with what `prepare` masks
// and closes in it, and /dev, each whole, in a place of the skeleton's.
int mounts_stage(const struct message *prepare, struct failure *failure);
// Then: lower, scratch, overlay, what was staged, pivot into the image, private tmpfs, then what the
// request asks for. Afterwards the skeleton is unreachable.
int mounts_enter(const struct message *setup, struct failure *failure);
// Makes one directory; an existing one gets that mode and owner. Its last component is never a link:
// commands may be running already.
int mounts_directory(const struct wire_directory *wanted);

// The steps of that, for whoever has to do them later: boot.h.
int mounts_tmpfs(const char *path, uint32_t mode, uint64_t bytes);
int mounts_new(const char *type, const char *path); // without options; nosuid, nodev, noexec
int mounts_copy(const char *from, const char *to);  // a file's mount on another name
int mounts_mask(const char *path);
int mounts_readonly(const char *path);

#endif
