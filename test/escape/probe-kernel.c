// SPDX-License-Identifier: Apache-2.0
// The kernel's own attack surface. Arguments are chosen so that a kernel that is reached says
// something else than a filter does, and changes nothing.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fanotify.h>
#include <linux/io_uring.h>
#include <linux/keyctl.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/personality.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "probe.h"

#define CALL(...) by_result(syscall(__VA_ARGS__))

static enum outcome add_key(void) {
  return CALL(SYS_add_key, "user", "kiln-probe", "x", 1, KEY_SPEC_PROCESS_KEYRING);
}
// The session keyring of whoever started libvirt would be found here, and what is in it.
static enum outcome keyctl_session(void) {
  return CALL(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0);
}
static enum outcome request_key(void) {
  long result = syscall(SYS_request_key, "user", "kiln-no-such-key", NULL, 0);
  return result < 0 && errno == ENOKEY ? THROUGH : by_result(result); // it has searched
}
// The tail must be zero, which is looked at before any right.
static enum outcome bpf(void) {
  char attributes[512];
  memset(attributes, 1, sizeof attributes);
  long result = syscall(SYS_bpf, 0, attributes, sizeof attributes);
  return result < 0 && errno == E2BIG ? THROUGH : by_result(result);
}
static enum outcome userfaultfd(void) { return CALL(SYS_userfaultfd, UFFD_USER_MODE_ONLY); }
static enum outcome io_uring(void) {
  struct io_uring_params parameters = {0};
  return CALL(SYS_io_uring_setup, 1, &parameters);
}
static enum outcome aio(void) {
  unsigned long context = 0;
  return CALL(SYS_io_setup, 1, &context);
}
static enum outcome perf(void) {
  struct perf_event_attr attributes = {.type = PERF_TYPE_SOFTWARE,
                                       .size = sizeof attributes,
                                       .config = PERF_COUNT_SW_TASK_CLOCK,
                                       .exclude_kernel = 1,
                                       .exclude_hv = 1};
  return CALL(SYS_perf_event_open, &attributes, 0, -1, -1, 0);
}
static enum outcome init_module(void) { return CALL(SYS_init_module, "", 0, ""); }
static enum outcome finit_module(void) { return CALL(SYS_finit_module, -1, "", 0); }
static enum outcome kexec(void) { return CALL(SYS_kexec_load, 0, 0, NULL, 0xffff); }
static enum outcome kexec_file(void) { return CALL(SYS_kexec_file_load, -1, -1, 0, NULL, 0xffff); }
static enum outcome clock_set(void) {
  struct timespec time = {0};
  return CALL(SYS_clock_settime, 9999, &time);
}
static enum outcome time_set(void) {
  struct timeval time = {.tv_usec = 5000000};
  return CALL(SYS_settimeofday, &time, NULL);
}
static enum outcome swap_on(void) { return CALL(SYS_swapon, "/nowhere", 0x7f000000); }
static enum outcome reboot_machine(void) { return CALL(SYS_reboot, 1, 2, 3, NULL); }
static enum outcome file_handle(void) {
  struct {
    struct file_handle handle;
    char bytes[128];
  } it = {.handle.handle_bytes = 128};
  int mount;
  return CALL(SYS_name_to_handle_at, AT_FDCWD, "/tmp", &it, &mount, 0);
}
static enum outcome fanotify(void) {
  return CALL(SYS_fanotify_init, FAN_CLASS_NOTIF | FAN_REPORT_FID, O_RDONLY);
}
static enum outcome kernel_log(void) { return by_result(klogctl(10 /* SIZE_BUFFER */, NULL, 0)); }
static enum outcome port_access(void) { return CALL(SYS_iopl, 0); }
static enum outcome read_implies_exec(void) { return by_result(personality(READ_IMPLIES_EXEC)); }
static enum outcome set_host_name(void) { return by_result(sethostname("kiln", 4)); }

// The same kernel by its other doors. Pointers must fit in 32 bits: this program is linked low.
static long ia32(long number, long a, long b, long c, long d, long e) {
  long result;
  __asm__ volatile("int $0x80"
                   : "=a"(result)
                   : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
                   : "memory", "r8", "r9", "r10", "r11");
  if (result < 0) errno = (int)-result;
  return result < 0 ? -1 : result;
}
static char key_type[] = "user", key_name[] = "kiln-probe32", key_value[] = "x";
static enum outcome ia32_add_key(void) {
  return by_result(ia32(286, (long)key_type, (long)key_name, (long)key_value, 1,
                        KEY_SPEC_PROCESS_KEYRING));
}
static enum outcome ia32_socketcall(void) {
  static unsigned arguments[3] = {40 /* AF_VSOCK */, 1, 0};
  return by_result(ia32(102, 1 /* SYS_SOCKET */, (long)arguments, 0, 0, 0));
}
static enum outcome ia32_aio(void) {
  static unsigned context;
  return by_result(ia32(245, 1, (long)&context, 0, 0, 0));
}
static enum outcome x32_getpid(void) { return CALL(0x40000000 | SYS_getpid); }

const struct verb kernel_verbs[] = {
    {"add-key", add_key},
    {"keyctl-session", keyctl_session},
    {"request-key", request_key},
    {"bpf", bpf},
    {"userfaultfd", userfaultfd},
    {"io-uring", io_uring},
    {"aio", aio},
    {"perf", perf},
    {"init-module", init_module},
    {"finit-module", finit_module},
    {"kexec", kexec},
    {"kexec-file", kexec_file},
    {"clock-settime", clock_set},
    {"settimeofday", time_set},
    {"swapon", swap_on},
    {"reboot", reboot_machine},
    {"file-handle", file_handle},
    {"fanotify", fanotify},
    {"kernel-log", kernel_log},
    {"iopl", port_access},
    {"personality", read_implies_exec},
    {"sethostname", set_host_name},
    {"ia32-add-key", ia32_add_key},
    {"ia32-socketcall", ia32_socketcall},
    {"ia32-aio", ia32_aio},
    {"x32-getpid", x32_getpid},
    {NULL, NULL},
};
