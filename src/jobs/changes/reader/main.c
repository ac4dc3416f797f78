// SPDX-License-Identifier: Apache-2.0
// Reads what sandboxes have written, as a confined child of kiln's (src/host/confine): what lies in a layer, or what two
// stacks of layers show differently. In C, since Node takes longer to start than a layer to read. The layers are hostile
// and may change while they are read: names are looked up one by one below open folders, and nothing is followed.
#include <stdlib.h>
#include <string.h>

#include "reader.h"

// On stdin: `list`, or `compare` with the numbers of layers of the two stacks and of changes, and paths; then a dot.
int main(void) {
  size_t count;
  char **words = words_read(&count);
  // Without a whole request: the parent has died.
  if (words == NULL) return 1;
  enclose();
  if (count == 1 && strcmp(words[0], "list") == 0) list(FIRST_FD);
  else if (count == 4 && strcmp(words[0], "compare") == 0) {
    unsigned numbers[3];
    for (int i = 0; i < 3; i++) numbers[i] = (unsigned)strtoul(words[i + 1], NULL, 10);
    int *fds = calloc(numbers[0] + numbers[1], sizeof *fds);
    if (fds == NULL) fail("calloc");
    for (unsigned i = 0; i < numbers[0] + numbers[1]; i++) fds[i] = FIRST_FD + (int)i;
    compare(fds, numbers[0], fds + numbers[0], numbers[1], numbers[2]);
  } else return 2;
  tell_done();
}
