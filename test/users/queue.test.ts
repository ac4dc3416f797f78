/** Jobs of users: who waits, who is next, and who does not wait for whom. */
import { setImmediate as turn } from 'node:timers/promises';
import test from 'ava';
import { UserJobs } from '../../src/users/queue.ts';

const never = new AbortController().signal;

/** Begins a job, and notes when it may. */
function begin(
  jobs: UserJobs,
  uid: number,
  name: string,
  began: string[],
  signal = never,
  most = 2,
) {
  return jobs
    .begin({ uid, most }, () => began.push(`${name} waits`), signal)
    .then((job) => {
      began.push(job === undefined ? `${name} gave up` : name);
      return job;
    });
}

test('a job beyond the user’s limit waits until one ends, first come, first served', async (t) => {
  const jobs = new UserJobs();
  const began: string[] = [];
  const first = await begin(jobs, 1, 'a', began);
  await begin(jobs, 1, 'b', began);
  const third = begin(jobs, 1, 'c', began);
  begin(jobs, 1, 'd', began);
  await begin(jobs, 2, 'other', began);
  await turn();
  t.deepEqual(began, ['a', 'b', 'c waits', 'd waits', 'other']);
  first?.[Symbol.dispose]();
  first?.[Symbol.dispose]();
  (await third)?.[Symbol.dispose]();
  await turn();
  t.deepEqual(began.slice(5), ['c', 'd']);
});

test('a job whose caller gives up does not count', async (t) => {
  const jobs = new UserJobs();
  const began: string[] = [];
  const first = await begin(jobs, 1, 'a', began, never, 1);
  const given = new AbortController();
  const second = begin(jobs, 1, 'b', began, given.signal, 1);
  given.abort();
  t.is(await second, undefined);
  first?.[Symbol.dispose]();
  t.not(await begin(jobs, 1, 'c', began, never, 1), undefined);
  t.deepEqual(began, ['a', 'b waits', 'b gave up', 'c']);
});

test('all users together leave room for root, and take turns in order of arrival', async (t) => {
  const jobs = new UserJobs();
  const began: string[] = [];
  const running = await Promise.all(
    Array.from({ length: 32 }, (_, uid) => begin(jobs, 100 + uid, 'x', [])),
  );
  begin(jobs, 1, 'a', began);
  begin(jobs, 2, 'b', began);
  await turn();
  running[5]?.[Symbol.dispose]();
  await turn();
  t.deepEqual(began, ['a waits', 'b waits', 'a']);
});

test('users with many jobs leave some places for users with none', async (t) => {
  const jobs = new UserJobs(8);
  const began: string[] = [];
  for (const uid of [1, 1, 1, 2, 2, 2]) await begin(jobs, uid, 'x', [], never, 4);
  for (const uid of [1, 2]) begin(jobs, uid, `${uid} again`, began, never, 4);
  const third = await begin(jobs, 3, 'third', began, never, 4);
  begin(jobs, 3, 'third again', began, never, 4);
  await begin(jobs, 4, 'fourth', began, never, 4);
  begin(jobs, 5, 'fifth', began, never, 4);
  await turn();
  const waits = ['1 again waits', '2 again waits'];
  t.deepEqual(began, [...waits, 'third', 'third again waits', 'fourth', 'fifth waits']);
  third?.[Symbol.dispose]();
  await turn();
  t.deepEqual(began.slice(6), ['third again']);
});

test('a job that cannot wait gets a place only if the queue is empty', async (t) => {
  const jobs = new UserJobs();
  const began: string[] = [];
  const first = await begin(jobs, 1, 'a', began);
  const further = jobs.tryBegin({ uid: 1, most: 2 });
  t.truthy(further);
  t.is(jobs.tryBegin({ uid: 1, most: 2 }), undefined);
  const waiting = begin(jobs, 1, 'b', began);
  further?.[Symbol.dispose]();
  t.truthy(await waiting);
  first?.[Symbol.dispose]();
  t.truthy(jobs.tryBegin({ uid: 1, most: 2 }));
  t.is(jobs.running(1), 2);
});
