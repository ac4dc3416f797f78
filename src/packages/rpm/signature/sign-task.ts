/** The confined side of signing: takes packages apart, so that the host need not read them. */
import { closeSync } from 'node:fs';
import { flattenError } from '../../../host/confine/frame.ts';
import type { SingleTask } from '../../../host/confine/task.ts';
import { checkDigests, digestFaults } from '../digests.ts';
import { rpmError } from '../package.ts';
import { readSections } from '../sections.ts';
import { Tag } from '../tags.ts';

/** `rpmformat` of a main header where it says nothing. */
const OLD_FORMAT = 4;

export const task: SingleTask = {
  run(_input, { fds, emit }) {
    for (const [index, fd] of fds.entries()) {
      try {
        emit({ index, parts: takeApart(fd) });
      } catch (error) {
        emit({ index, error: flattenError(error) });
      } finally {
        closeSync(fd);
      }
    }
  },
};

function takeApart(fd: number) {
  const sections = readSections(fd);
  const [fault] = digestFaults(checkDigests(fd, sections, 'payload'));
  if (fault !== undefined) throw rpmError('E_RPM_DIGEST', fault);
  const { signature, header, headerStart, headerEnd } = sections;
  return {
    headerStart,
    headerEnd,
    format: header.number(Tag.rpmFormat) ?? OLD_FORMAT,
    entries: signature
      .rawEntries()
      .map(({ data, ...entry }) => ({ ...entry, data: data.toString('base64') })),
  };
}
