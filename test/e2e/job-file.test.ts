import { mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { type BusyboxState, busyboxState, IMAGE } from '../support/busybox-state.ts';

let state: BusyboxState;
test.before(async () => {
  state = await busyboxState();
  await mkdir(join(state.beside, 'job/data'), { recursive: true });
  await writeFile(join(state.beside, 'job/data/word'), 'of the folder\n');
  await writeFile(join(state.beside, 'job/token'), 'hidden');
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

const JOB = `
image: ${IMAGE}
bind: ./data:/data:ro
tmpfs: [/scratch:1M]
env: { A: 1, FROM: file }
secret: [token=token]
hostname: job
no-protect: true
tty: false
command: [sh, -c, 'cat /data/word /run/secrets/token; echo " $A $FROM $(stat -fc %b /scratch)"; uname -n']
`;

async function written(name: string, text: string): Promise<string> {
  const file = join(state.beside, 'job', name);
  await writeFile(file, text);
  return file;
}

test('kiln run --file takes options and the command; paths begin in the folder of the file', async (t) => {
  const file = await written('job.yaml', JOB);
  const { stdout, stderr } = await state.kiln(['run', '--file', file], { cwd: '/' });
  t.is(String(stdout), `of the folder\nhidden 1 file 256\njob`, String(stderr));
  // Of two values the one of the command line counts, and so does its command.
  const own = ['run', `--file=${file}`, '-e', 'FROM=here', '--', 'sh', '-c', 'echo $A $FROM'];
  t.is(String((await state.kiln(own)).stdout), '1 here');
});

test('kiln run --save writes what --file takes, and runs nothing', async (t) => {
  const cwd = join(state.beside, 'job');
  const ran = join(state.beside, 'ran');
  await mkdir(ran);
  const words = [
    ...['run', '-r', IMAGE, '--bind', 'data:/data:ro', '--bind', `${ran}:/ran`, '-e', 'A=x y'],
    ...['-e', 'HERE', '--memory', '64M', '--keep=1s', '--no-protect', '--save', '../saved.yaml'],
    ...['--', 'sh', '-c', 'cat /data/word; echo "$A $HERE"; touch /ran/it'],
  ];
  const saving = await state.kiln(words, { cwd });
  t.is(saving.exitCode, 0, String(saving.stderr));
  const saved = join(state.beside, 'saved.yaml');
  t.is((await execa('ls', ['-A', ran])).stdout, '');
  // An independent reader of YAML, where this host has one.
  const read = 'import yaml,json,sys; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))';
  const python = await execa('python3', ['-c', read, saved], { reject: false });
  if (python.exitCode === 0) {
    t.like(JSON.parse(python.stdout), {
      memory: '64M',
      bind: [`${cwd}/data:/data:ro`, `${ran}:/ran`],
      env: ['A=x y', 'HERE'],
      'no-protect': true,
    });
  }
  t.notRegex(await readFile(saved, 'utf8'), /^save:/m);
  const env = { ...state.env, HERE: 'caller’s' };
  const { stdout, stderr } = await state.kiln(['run', '--file', saved], { cwd: '/', env });
  t.is(String(stdout), 'of the folder\nx y caller’s', String(stderr));
  t.true((await stat(join(ran, 'it'))).isFile());
  // A file and further options make another file.
  const more = join(state.beside, 'more.yaml');
  await state.kiln(['run', '--file', saved, '--memory', '32M', '--save', more]);
  t.regex(await readFile(more, 'utf8'), /^memory: 32M$/m);
});

test('the networks of a file go together, and make way for those of the command line', async (t) => {
  const file = join(state.beside, 'networks.yaml');
  const two = ['--network', 'lan', '--network', 'store,address=10.1.0.7/24'];
  await state.kiln(['run', '-r', IMAGE, ...two, '-p', '8085:80', '--save', file, '--', 'true']);
  const explained = async (...more: readonly string[]) =>
    String((await state.kiln(['run', '--file', file, ...more, '--explain'])).stdout);
  const planned = await explained();
  t.regex(planned, /net-namespace .*network lan, store/);
  t.regex(planned, /published port +off +8085:80/);
  t.regex(await explained('--network', 'none'), /net-namespace .*nothing but lo/);
  t.regex(await explained('--network', 'other'), /net-namespace .*network other$/m);
});

test('mistakes in the file of a job are told with their lines', async (t) => {
  const wrong = await written(
    'wrong.yaml',
    'memroy: 1G\ncpus: many\nbind: [a:b:c:d]\nsave: x\ntty: 3\ncommand: make\n',
  );
  const { exitCode, stderr } = await state.kiln(['run', '--file', wrong]);
  const text = String(stderr);
  t.is(exitCode, 125);
  t.regex(text, /^kiln: job .*wrong\.yaml has 6 problems: \[E_JOB_FILE\]$/m);
  t.regex(text, /wrong\.yaml:1:1: memroy: unknown key \(did you mean "memory"\?\)/);
  t.regex(text, /wrong\.yaml:2:7: cpus: "many" cannot be used: /);
  t.regex(text, /wrong\.yaml:3:8: bind\[0\]: "a:b:c:d" cannot be used: write it as SRC:DST/);
  t.regex(text, /wrong\.yaml:4:1: save: unknown key/);
  t.regex(text, /wrong\.yaml:6:10: command: must be a list, not a string/);
  t.regex(text, /^ {2}hint: docs\/jobs\.md/m);
  const none = await state.kiln(['run', '--file', 'none.yaml', '--', 'true']);
  t.is(none.exitCode, 125);
  t.regex(String(none.stderr), /none\.yaml.*\[E_CALLER_FILE\]/);
  const nowhere = await state.kiln(['run', '--save', '/nonexistent/x.yaml', '--', 'true']);
  t.is(nowhere.exitCode, 125);
});
