/* Finding the daemon of a state directory, and starting it. */
#ifndef KILN_DAEMON_H
#define KILN_DAEMON_H

#include <stdbool.h>

/* The folder of kiln's package (above dist/), without a closing slash; ends the process if it is unknown. */
const char *package_folder(void);

/* A socket that is connected to the daemon, or -1 with errno: ENOENT and ECONNREFUSED where none listens. */
int daemon_connect(void);

/* The state directory, as the caller names it. */
const char *daemon_place(void);
/* Whether a directory is at that place that a daemon could write to. */
bool daemon_place_serves(void);

/* Starts the daemon and waits until it listens. Only for root. On failure ends the process with a message. */
void daemon_start(void);

/* Ends the process with the status of kiln's own failures after a message that begins with `kiln: `. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
