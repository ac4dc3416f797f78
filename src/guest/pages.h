// SPDX-License-Identifier: Apache-2.0
#ifndef KILN_PAGES_H
#define KILN_PAGES_H

#include <stdint.h>
#include <sys/mman.h>

#define PAGE_BYTES 4096u

// The linker's: static variables that begin as zeros.
extern char __bss_start[], _end[];

// Of the large buffers there little is used: where huge pages are usual, each byte of that would take 2 MiB.
static inline void small_pages(void) {
  uintptr_t start = ((uintptr_t)__bss_start + PAGE_BYTES - 1) & ~(uintptr_t)(PAGE_BYTES - 1);
  uintptr_t end = (uintptr_t)_end & ~(uintptr_t)(PAGE_BYTES - 1);
  // A kernel without huge pages refuses.
  if (start < end) madvise((void *)start, end - start, MADV_NOHUGEPAGE);
}

#endif
