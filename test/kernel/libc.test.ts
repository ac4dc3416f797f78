import test from 'ava';
import koffi from 'koffi';
import { insistentCall, SyscallError } from '../../src/kernel/libc.ts';

const [EAGAIN, ENOENT] = [koffi.os.errno.EAGAIN ?? 0, koffi.os.errno.ENOENT ?? 0];

/** What a call leaves behind: a result, and errno. */
function calls(...outcomes: readonly (readonly [result: number, errno: number])[]) {
  let made = 0;
  return {
    make: () => {
      const [result, errno] = outcomes[Math.min(made++, outcomes.length - 1)]!;
      koffi.errno(errno);
      return result;
    },
    made: () => made,
  };
}

test('a call that fails with what another thread may have left in errno is made again', (t) => {
  const late = calls([-1, EAGAIN], [-1, EAGAIN], [7, 0]);
  t.is(insistentCall('openat2', late.make), 7);
  const missing = calls([-1, EAGAIN], [-1, ENOENT]);
  const error = t.throws(() => insistentCall('openat2', missing.make, 'a'), {
    instanceOf: SyscallError,
  });
  t.is(error.message, 'openat2 a: ENOENT');
  t.is(missing.made(), 2);
});

test('one that goes on saying so is given up', (t) => {
  const never = calls([-1, EAGAIN]);
  t.throws(() => insistentCall('openat2', never.make), { message: 'openat2: EAGAIN' });
  t.true(never.made() > 1 && never.made() < 100_000);
});
