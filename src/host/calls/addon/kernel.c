/*
 * System calls for src/host/calls, as a Node-API addon (https://nodejs.org/api/n-api.html). One file, for it is one
 * list of small functions that need the same few helpers.
 *
 * Every function gives a call's result or -errno as one number. errno is read in the same C function
 * that made the call, so nothing that V8 or another library does in between can change it.
 */
#define NAPI_VERSION 8
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <node_api.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "numbers.h" // written by scripts/write/wire.ts

#define MAX_ARGUMENTS 6
#define SHORT_TEXT 4096
#define MAX_DESCRIPTORS 253

struct arguments {
  long values[MAX_ARGUMENTS];
  char *copies[MAX_ARGUMENTS];
};

static void throw_type(napi_env env, const char *message) { napi_throw_type_error(env, NULL, message); }

/* Reads a text argument. A text with a NUL inside is refused: in C it would name another file. */
static bool read_text(napi_env env, napi_value value, long *into, char **copy) {
  size_t length;
  if (napi_get_value_string_utf8(env, value, NULL, 0, &length) != napi_ok) return false;
  *copy = malloc(length + 1);
  if (*copy == NULL) return false;
  if (napi_get_value_string_utf8(env, value, *copy, length + 1, &length) != napi_ok) return false;
  if (memchr(*copy, '\0', length) != NULL) {
    throw_type(env, "a file name holds a NUL byte");
    return false;
  }
  *into = (long)*copy;
  return true;
}

static bool read_bytes(napi_env env, napi_value value, void **data, size_t *length) {
  bool is;
  if (napi_is_typedarray(env, value, &is) != napi_ok || !is) return false;
  napi_typedarray_type type;
  size_t count;
  if (napi_get_typedarray_info(env, value, &type, &count, data, NULL, NULL) != napi_ok) return false;
  static const size_t sizes[] = {1, 1, 1, 2, 2, 4, 4, 4, 8, 8, 8};
  *length = count * ((size_t)type < sizeof sizes / sizeof *sizes ? sizes[type] : 1);
  return true;
}

static bool read_argument(napi_env env, napi_value value, long *into, char **copy) {
  napi_valuetype type;
  if (napi_typeof(env, value, &type) != napi_ok) return false;
  int64_t number;
  bool lossless;
  void *data;
  size_t length;
  switch (type) {
    case napi_null:
      *into = 0;
      return true;
    case napi_number:
      if (napi_get_value_int64(env, value, &number) != napi_ok) return false;
      *into = number;
      return true;
    case napi_bigint:
      if (napi_get_value_bigint_int64(env, value, &number, &lossless) != napi_ok) return false;
      *into = number;
      return true;
    case napi_string:
      return read_text(env, value, into, copy);
    case napi_object:
      if (!read_bytes(env, value, &data, &length)) break;
      *into = (long)data;
      return true;
    default:
      break;
  }
  throw_type(env, "a system call takes numbers, text, bytes and null");
  return false;
}

static void free_arguments(struct arguments *arguments) {
  for (int i = 0; i < MAX_ARGUMENTS; i++) free(arguments->copies[i]);
}

static bool read_call(napi_env env, napi_callback_info info, long *number, struct arguments *arguments) {
  napi_value given[1 + MAX_ARGUMENTS];
  size_t count = 1 + MAX_ARGUMENTS;
  memset(arguments, 0, sizeof *arguments);
  if (napi_get_cb_info(env, info, &count, given, NULL, NULL) != napi_ok) return false;
  int64_t value;
  if (count == 0 || napi_get_value_int64(env, given[0], &value) != napi_ok) {
    throw_type(env, "the number of a system call is missing");
    return false;
  }
  *number = value;
  for (size_t i = 1; i < count && i <= MAX_ARGUMENTS; i++) {
    if (!read_argument(env, given[i], &arguments->values[i - 1], &arguments->copies[i - 1])) {
      free_arguments(arguments);
      return false;
    }
  }
  return true;
}

static long call(long number, const long *a) {
  long result = syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
  return result == -1 ? -errno : result;
}

static napi_value number_value(napi_env env, long number) {
  napi_value value;
  return napi_create_int64(env, number, &value) == napi_ok ? value : NULL;
}

static napi_value js_call(napi_env env, napi_callback_info info) {
  long number;
  struct arguments arguments;
  if (!read_call(env, info, &number, &arguments)) return NULL;
  long result = call(number, arguments.values);
  free_arguments(&arguments);
  return number_value(env, result);
}

static bool read_int(napi_env env, napi_value value, int *into) {
  int32_t number;
  if (napi_get_value_int32(env, value, &number) == napi_ok) {
    *into = number;
    return true;
  }
  throw_type(env, "a number is missing");
  return false;
}

static bool take_arguments(napi_env env, napi_callback_info info, size_t count, napi_value *given) {
  return napi_get_cb_info(env, info, &count, given, NULL, NULL) == napi_ok;
}

static napi_value js_send_message(napi_env env, napi_callback_info info) {
  napi_value given[4];
  size_t length;
  int socket, flags;
  void *data;
  uint32_t descriptors;
  if (!take_arguments(env, info, sizeof given / sizeof *given, given)) return NULL;
  if (!read_int(env, given[0], &socket) || !read_int(env, given[3], &flags)) return NULL;
  if (!read_bytes(env, given[1], &data, &length)) {
    throw_type(env, "sendMessage takes bytes");
    return NULL;
  }
  if (napi_get_array_length(env, given[2], &descriptors) != napi_ok || descriptors > MAX_DESCRIPTORS) {
    throw_type(env, "sendMessage takes an array of at most 253 descriptors");
    return NULL;
  }
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int) * MAX_DESCRIPTORS)];
  } control;
  struct iovec part = {data, length};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (descriptors > 0) {
    memset(&control, 0, sizeof control);
    message.msg_control = &control;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * descriptors);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * descriptors);
    for (uint32_t i = 0; i < descriptors; i++) {
      napi_value element;
      int fd;
      if (napi_get_element(env, given[2], i, &element) != napi_ok || !read_int(env, element, &fd)) {
        return NULL;
      }
      memcpy(CMSG_DATA(header) + i * sizeof fd, &fd, sizeof fd);
    }
  }
  ssize_t sent = sendmsg(socket, &message, flags);
  return number_value(env, sent == -1 ? -errno : sent);
}

/*
 * receiveMessage(socket, into, descriptors, most, flags): recvmsg(2); what came with SCM_RIGHTS, `most` at the
 * most, is pushed onto the array, close-on-exec; the kernel drops the rest (MSG_CTRUNC), without a word to the
 * file system of one, as close(2) would have. Gives [bytes or -errno, msg_flags].
 */
static napi_value js_receive_message(napi_env env, napi_callback_info info) {
  napi_value given[5], answer;
  size_t length;
  int socket, most, flags;
  void *data;
  if (!take_arguments(env, info, sizeof given / sizeof *given, given)) return NULL;
  if (!read_int(env, given[0], &socket) || !read_int(env, given[3], &most) ||
      !read_int(env, given[4], &flags)) {
    return NULL;
  }
  if (most < 0 || most > MAX_DESCRIPTORS) {
    throw_type(env, "receiveMessage takes 0 to 253 descriptors");
    return NULL;
  }
  if (!read_bytes(env, given[1], &data, &length)) {
    throw_type(env, "receiveMessage takes bytes");
    return NULL;
  }
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int) * MAX_DESCRIPTORS)];
  } control;
  struct iovec part = {data, length};
  struct msghdr message = {
      .msg_iov = &part,
      .msg_iovlen = 1,
      .msg_control = &control,
      /* Without the padding, which would have room for one more. */
      .msg_controllen = most == 0 ? 0 : CMSG_LEN(sizeof(int) * most)};
  ssize_t received = recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
  long result = received == -1 ? -errno : received;
  if (received == -1) {
    message.msg_controllen = 0;
    message.msg_flags = 0;
  }
  for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header != NULL;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    size_t descriptors = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < descriptors; i++) {
      int fd;
      uint32_t have;
      memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
      if (napi_get_array_length(env, given[2], &have) != napi_ok ||
          napi_set_element(env, given[2], have, number_value(env, fd)) != napi_ok) {
        close(fd);
      }
    }
  }
  if (napi_create_array_with_length(env, 2, &answer) != napi_ok) return NULL;
  napi_set_element(env, answer, 0, number_value(env, result));
  napi_set_element(env, answer, 1, number_value(env, message.msg_flags));
  return answer;
}

#define STAND_IN_STACK (64 * 1024)
/* Seconds that the stand-in process lives at most if this process dies before it can kill it. */
#define STAND_IN_SECONDS 2

static int stand_in(void *unused) {
  (void)unused;
  const struct timespec time = {STAND_IN_SECONDS, 0};
  /* No libc here: this process shares its memory, and so its thread-local data, with the parent. */
  syscall(SYS_nanosleep, &time, NULL);
  syscall(SYS_exit_group, 0);
  return 0;
}

static long write_proc(pid_t pid, const char *name, const char *text) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd == -1) return -errno;
  size_t length = strlen(text);
  ssize_t written = write(fd, text, length);
  long result = written == (ssize_t)length ? 0 : written == -1 ? -errno : -EIO;
  close(fd);
  return result;
}

static long open_namespace(pid_t pid) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/ns/user", (int)pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  return fd == -1 ? -errno : fd;
}

/*
 * userNamespace(uidMap, gidMap, denySetgroups): a descriptor of a new user namespace, or -errno.
 * A namespace needs a process to be made. Forking would copy the whole JavaScript engine, so the child
 * shares our memory (CLONE_VM), has a stack of its own and all signals blocked, and runs two calls only.
 */
static napi_value js_user_namespace(napi_env env, napi_callback_info info) {
  napi_value given[3];
  bool deny;
  long users, groups, result;
  char *user_map = NULL, *group_map = NULL;
  if (!take_arguments(env, info, sizeof given / sizeof *given, given)) return NULL;
  if (napi_get_value_bool(env, given[2], &deny) != napi_ok ||
      !read_text(env, given[0], &users, &user_map) || !read_text(env, given[1], &groups, &group_map)) {
    free(user_map);
    free(group_map);
    throw_type(env, "userNamespace takes two maps and a boolean");
    return NULL;
  }
  void *stack = mmap(NULL, STAND_IN_STACK, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) {
    result = -errno;
  } else {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pid_t pid = clone(stand_in, (char *)stack + STAND_IN_STACK, CLONE_NEWUSER | CLONE_VM, NULL);
    result = pid == -1 ? -errno : 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (pid != -1) {
      if (deny) result = write_proc(pid, "setgroups", "deny");
      if (result == 0) result = write_proc(pid, "uid_map", user_map);
      if (result == 0) result = write_proc(pid, "gid_map", group_map);
      if (result == 0) result = open_namespace(pid);
      kill(pid, SIGKILL);
      while (waitpid(pid, NULL, __WCLONE) == -1 && errno == EINTR) {
      }
    }
    munmap(stack, STAND_IN_STACK);
  }
  free(user_map);
  free(group_map);
  return number_value(env, result);
}

struct watch {
  uv_poll_t poll;
  napi_env env;
  napi_ref callback;
  napi_async_context context;
  /* The loop and JavaScript's garbage collector each hold it; it is freed when both let go. */
  int holders;
  bool stopped;
};

static void watch_release(struct watch *watch) {
  if (--watch->holders == 0) free(watch);
}

static void watch_closed(uv_handle_t *handle) { watch_release(handle->data); }

static void watch_ready(uv_poll_t *poll, int status, int events) {
  struct watch *watch = poll->data;
  napi_handle_scope scope;
  napi_value callback, receiver, argument;
  if (napi_open_handle_scope(watch->env, &scope) != napi_ok) return;
  if (napi_get_reference_value(watch->env, watch->callback, &callback) == napi_ok &&
      napi_get_global(watch->env, &receiver) == napi_ok &&
      napi_create_int32(watch->env, status < 0 ? status : events, &argument) == napi_ok) {
    /* An exception becomes the process's uncaught exception, as with any other callback of Node's. */
    if (napi_make_callback(watch->env, watch->context, receiver, callback, 1, &argument, NULL) ==
        napi_pending_exception) {
      napi_value exception;
      napi_get_and_clear_last_exception(watch->env, &exception);
      napi_fatal_exception(watch->env, exception);
    }
  }
  napi_close_handle_scope(watch->env, scope);
}

static void watch_stop(struct watch *watch) {
  if (watch->stopped) return;
  watch->stopped = true;
  napi_delete_reference(watch->env, watch->callback);
  napi_async_destroy(watch->env, watch->context);
  uv_close((uv_handle_t *)&watch->poll, watch_closed);
}

static void watch_collected(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  watch_stop(data);
  watch_release(data);
}

/* watch(fd, callback): calls back with the events that have come (UV_READABLE 1, UV_WRITABLE 2) or -errno. */
static napi_value js_watch(napi_env env, napi_callback_info info) {
  napi_value given[2], name, handle;
  int fd;
  uv_loop_t *loop;
  if (!take_arguments(env, info, sizeof given / sizeof *given, given)) return NULL;
  if (!read_int(env, given[0], &fd) || napi_get_uv_event_loop(env, &loop) != napi_ok) return NULL;
  struct watch *watch = calloc(1, sizeof *watch);
  if (watch == NULL) return NULL;
  int error = uv_poll_init(loop, &watch->poll, fd);
  if (error < 0) {
    free(watch);
    return number_value(env, error);
  }
  watch->poll.data = watch;
  watch->env = env;
  watch->holders = 2;
  if (napi_create_string_utf8(env, "kiln descriptor", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_async_init(env, NULL, name, &watch->context) != napi_ok ||
      napi_create_reference(env, given[1], 1, &watch->callback) != napi_ok ||
      napi_create_external(env, watch, watch_collected, NULL, &handle) != napi_ok) {
    napi_throw_error(env, NULL, "a descriptor cannot be watched");
    return NULL;
  }
  return handle;
}

static struct watch *read_watch(napi_env env, napi_value value) {
  void *data;
  if (napi_get_value_external(env, value, &data) == napi_ok) return data;
  throw_type(env, "not a watched descriptor");
  return NULL;
}

static napi_value js_set_events(napi_env env, napi_callback_info info) {
  napi_value given[2];
  int mask;
  if (!take_arguments(env, info, sizeof given / sizeof *given, given)) return NULL;
  struct watch *watch = read_watch(env, given[0]);
  if (watch == NULL || !read_int(env, given[1], &mask)) return NULL;
  if (watch->stopped) return number_value(env, -EBADF);
  int error = mask == 0 ? uv_poll_stop(&watch->poll) : uv_poll_start(&watch->poll, mask, watch_ready);
  return number_value(env, error);
}

static napi_value js_stop_watching(napi_env env, napi_callback_info info) {
  napi_value given[1];
  if (!take_arguments(env, info, sizeof given / sizeof *given, given)) return NULL;
  struct watch *watch = read_watch(env, given[0]);
  if (watch != NULL) watch_stop(watch);
  return NULL;
}

/*
 * applyFilter(instructions): binds all threads of this process, for good, to a struct sock_filter[] (seccomp(2)).
 * no_new_privs must be set. Of a thread that cannot be bound, ESRCH tells.
 */
static napi_value js_apply_filter(napi_env env, napi_callback_info info) {
  napi_value given[1];
  void *instructions;
  size_t length;
  if (!take_arguments(env, info, sizeof given / sizeof *given, given)) return NULL;
  if (!read_bytes(env, given[0], &instructions, &length) || length == 0 ||
      length % sizeof(struct sock_filter) != 0 || length / sizeof(struct sock_filter) > BPF_MAXINSNS) {
    throw_type(env, "applyFilter takes the instructions of a filter");
    return NULL;
  }
  struct sock_fprog program = {(unsigned short)(length / sizeof(struct sock_filter)), instructions};
  const unsigned long flags = SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
  long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
  return number_value(env, result == -1 ? -errno : result);
}

static napi_value initialize(napi_env env, napi_value exports) {
  const napi_property_descriptor functions[] = {
      {"call", NULL, js_call, NULL, NULL, NULL, napi_enumerable, NULL},
      {"sendMessage", NULL, js_send_message, NULL, NULL, NULL, napi_enumerable, NULL},
      {"receiveMessage", NULL, js_receive_message, NULL, NULL, NULL, napi_enumerable, NULL},
      {"userNamespace", NULL, js_user_namespace, NULL, NULL, NULL, napi_enumerable, NULL},
      {"applyFilter", NULL, js_apply_filter, NULL, NULL, NULL, napi_enumerable, NULL},
      {"watch", NULL, js_watch, NULL, NULL, NULL, napi_enumerable, NULL},
      {"setEvents", NULL, js_set_events, NULL, NULL, NULL, napi_enumerable, NULL},
      {"stopWatching", NULL, js_stop_watching, NULL, NULL, NULL, napi_enumerable, NULL},
  };
  napi_value numbers;
  if (napi_define_properties(env, exports, sizeof functions / sizeof *functions, functions) != napi_ok ||
      napi_create_object(env, &numbers) != napi_ok) {
    return NULL;
  }
  for (size_t i = 0; i < sizeof call_numbers / sizeof *call_numbers; i++) {
    if (napi_set_named_property(env, numbers, call_numbers[i].name,
                                number_value(env, call_numbers[i].number)) != napi_ok) {
      return NULL;
    }
  }
  return napi_set_named_property(env, exports, "numbers", numbers) == napi_ok ? exports : NULL;
}

NAPI_MODULE(kiln_kernel, initialize)
