/** Kept sandboxes, and what tests of their snapshots write and look at. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ExecutionContext } from 'ava';
import { execa } from 'execa';
import { type BusyboxState, IMAGE, MAIN } from './busybox-state.ts';

/** @param timeout of each call, ms, where calls take longer than others */
export function keptSandboxes(state: () => BusyboxState, timeout?: number) {
  async function kiln(...words: readonly string[]) {
    const ran = await state().kiln(words, timeout === undefined ? {} : { timeout });
    return { code: ran.exitCode, out: String(ran.stdout), said: String(ran.stderr) };
  }

  async function ok(t: ExecutionContext, ...words: readonly string[]): Promise<string> {
    const { code, out, said } = await kiln(...words);
    t.is(code, 0, `${words.join(' ')}: ${said}`);
    return out;
  }

  /** The id of a sandbox in which a command has written. */
  async function kept(
    t: ExecutionContext,
    script: string,
    ...more: readonly string[]
  ): Promise<string> {
    const words = [
      'run',
      '-r',
      IMAGE,
      '--keep',
      ...more,
      '--user',
      'root',
      '--',
      'sh',
      '-c',
      script,
    ];
    const { code, said } = await kiln(...words);
    t.is(code, 0, said);
    return /kept as (\w+)/.exec(said)?.[1] ?? '';
  }

  /** Kills one call of kiln after so many milliseconds. Without the daemon: what is killed is what writes. */
  async function killed(after: number, ...words: readonly string[]): Promise<void> {
    const calling = execa(process.execPath, [MAIN, ...words], { env: state().env, reject: false });
    await sleep(after);
    calling.kill('SIGKILL');
    await calling;
  }
  return { kiln, ok, kept, killed };
}

/** Of a sandbox's root, without what the init mounts on it: names, kinds, modes, owners, times, links, content. */
export const LISTING =
  'cd /; find etc/passwd etc/group root home x -exec stat -c "%n %F %a %u:%g %Y %h" {} + | sort; find x -type f -exec sha256sum {} + | sort; ls -l x | grep -- "->"; ls /bin | wc -l';

export const WRITES = [
  'mkdir -p /x/deep/er; echo one > /x/a; ln /x/a /x/hard; ln -s a /x/link; chmod 741 /x/deep',
  'chown 1000:50 /x/deep/er; printf y > "/x/two\nlines"; rm /etc/group; touch -d @1000000000 /x/a',
  'rm -r /home/build; mkdir /home/build; echo new > /home/build/new; dd if=/dev/zero of=/x/sparse bs=1 count=1 seek=9999999 2>/dev/null',
  'cp /bin/busybox /x/set-id; chmod 6755 /x/set-id; chmod 2775 /x/deep',
].join('; ');

export const TOOLS =
  'for tool in sort ln mkfifo find; do eval "$tool() { busybox $tool \\"\\$@\\"; }"; done;';

/** Written by a shell. */
export const MANY =
  'mkdir /m; cd /m; for i in $(seq 400); do echo $i > f$i; mkdir d$i; done; cp /bin/busybox /m/big';
