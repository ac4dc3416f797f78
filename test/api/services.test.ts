/** Services by the API, from their making to their end. */
import test from 'ava';
import { connect, type Kiln } from '../../src/index.ts';
import { type BusyboxState, busyboxState } from '../support/busybox-state.ts';

let state: BusyboxState;
let kiln: Kiln;

test.before(async () => {
  state = await busyboxState();
  kiln = await connect({ state: state.paths.root });
});
test.after.always(async () => {
  kiln?.close();
  await state[Symbol.asyncDispose]();
});

test.serial('a service can be created, started, restarted, stopped and removed', async (t) => {
  const name = 'sleeper';
  const definition = { image: 'busybox', command: ['/bin/sleep', '1000'], memory: '64M' };
  const { result } = await kiln.call('CreateService', { name, definition });
  t.like(result, { name, state: 'created' });
  const pidOf = (status: unknown) => (status as { supervisorPid: number }).supervisorPid;
  const { service } = await kiln.call('StartService', { name });
  t.is(service.state, 'running');
  t.is((await kiln.call('StartService', { name })).service.state, 'running');
  await t.throwsAsync(kiln.call('DeleteService', { name }), { code: 'E_SERVICE_RUNS' });
  const again = await kiln.call('RestartService', { name });
  t.not(pidOf(again.service.status), pidOf(service.status));
  const [listed] = await kiln.services([name]);
  t.is(pidOf(listed?.status), pidOf(again.service.status));
  t.deepEqual(await kiln.call('StopService', { name }), { stopped: true });
  t.deepEqual(await kiln.call('StopService', { name }), { stopped: false });
  await kiln.call('DeleteService', { name });
  t.deepEqual(await kiln.services(), []);
});

test.serial('a service definition is checked, and all its mistakes are reported', async (t) => {
  const wrong = (definition: Record<string, unknown>) =>
    kiln.call('CreateService', { name: 'x', definition });
  await t.throwsAsync(wrong({}), { code: 'E_ARGUMENT' });
  const error = await t.throwsAsync(wrong({ image: 'busybox', comand: ['a'], memory: -1 }), {
    code: 'E_RECIPE',
  });
  t.regex(error?.message ?? '', /comand(.|\n)*memory|memory(.|\n)*comand/);
  await t.throwsAsync(kiln.services(['x']), { code: 'E_NO_SERVICE' });
});
