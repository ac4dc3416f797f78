import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { type BusyboxState, busyboxState, IMAGE } from '../support/busybox-state.ts';

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
});
test.after.always(async () => {
  await state?.[Symbol.asyncDispose]();
});

interface TraceEvent {
  readonly name: string;
  readonly ph: string;
  readonly pid: number;
  readonly ts: number;
  readonly dur: number;
}

/** The array form of Chrome's format may lack its end. */
async function readTrace(file: string): Promise<TraceEvent[]> {
  const text = await readFile(file, 'utf8');
  return JSON.parse(`${text.replace(/,\s*$/, '')}]`) as TraceEvent[];
}

test('KILN_TRACE has the phases of the run, and those of the sandbox inside them', async (t) => {
  const file = join(state.paths.root, 'trace.json');
  const before = Date.now();
  const ran = await state.kiln(['run', '-r', IMAGE, '--', 'sleep', '0.3'], {
    env: { ...state.env, KILN_TRACE: file },
  });
  const after = Date.now();
  t.is(ran.exitCode, 0, String(ran.stderr));
  const events = await readTrace(file);
  const one = (name: string) => {
    const found = events.filter((event) => event.name === name);
    t.is(found.length, 1, `${name}: ${found.length}`);
    return found[0] as TraceEvent;
  };
  for (const event of events) {
    t.is(event.ph, 'X');
    t.true(event.ts > (before - 50) * 1000 && event.ts + event.dur < (after + 50) * 1000);
  }
  const command = one('command');
  // It runs from within `start` on: its runner may hear of that a little later.
  const took = one('start').dur + command.dur;
  t.true(took > 290_000, `sleep 0.3 took ${took} µs`);
  const fill = one('fill the sandbox');
  for (const name of ['init: prepare', 'init: enter', 'init: measure']) {
    const phase = one(name);
    t.not(phase.pid, fill.pid);
    // The sandbox's clock is the host's; both round.
    t.true(phase.ts >= fill.ts - 2000 && phase.ts + phase.dur <= fill.ts + fill.dur + 2000, name);
  }
  t.true(one('start a domain').dur > 0);
  t.true(one('wait for the init’s death').ts >= command.ts + command.dur - 2000);
  await rm(file);
});

test('a second run adds to the trace', async (t) => {
  const file = join(state.paths.root, 'trace-2.json');
  const env = { ...state.env, KILN_TRACE: file };
  for (let i = 0; i < 2; i++) await state.kiln(['run', '-r', IMAGE, '--', 'true'], { env });
  const processes = (await readTrace(file)).filter((event) => event.name === 'process');
  t.is(processes.length, 2);
});

test('a trace that cannot be written does not disturb the run', async (t) => {
  const env = { ...state.env, KILN_TRACE: '/nowhere/trace.json' };
  const ran = await state.kiln(['run', '-r', IMAGE, '--', 'echo', 'ok'], { env });
  t.is(ran.exitCode, 0);
  t.is(ran.stdout, 'ok');
  t.regex(String(ran.stderr), /cannot write the trace/);
});

test('the file of a trace is opened before the command starts', async (t) => {
  const [work, roots] = [join(state.beside, 'work'), join(state.beside, 'roots')];
  for (const folder of [join(work, 'sub'), roots]) await mkdir(folder, { recursive: true });
  const env = { ...state.env, KILN_TRACE: join(work, 'sub/trace.json') };
  const argv = ['run', '-r', IMAGE, '--bind', `${work}:/w`, '--', 'sh', '-c'];
  const ran = await state.kiln([...argv, `cd /w && mv sub old && ln -s ${roots} sub`], { env });
  t.is(ran.exitCode, 0, String(ran.stderr));
  t.deepEqual(await readdir(roots), []);
  const events = await readTrace(join(work, 'old/trace.json'));
  t.true(events.some(({ name }) => name === 'command'));
});
