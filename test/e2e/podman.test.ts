/** Words of podman's: understood, or answered with what to write. Its own tutorial, as its user would type it. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { commandHint, optionHint } from '../../src/cli/other-words.ts';
import { type BusyboxState, busyboxState } from '../support/busybox-state.ts';

const REFERENCE = join(import.meta.dirname, '../../docs/reference');

let state: BusyboxState;
test.before(async () => {
  state = await busyboxState();
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

/** What docs/reference, which is written from the command line, says of a command; empty for none. */
function pageOf(words: readonly string[]): string {
  const file = join(REFERENCE, `kiln-${words.join('-')}.md`);
  return existsSync(file) ? readFileSync(file, 'utf8') : '';
}

/** podman(1): its commands, but for those of machines and of its own affairs. */
const COMMANDS = `attach build commit container cp create diff events exec export generate healthcheck history images
  import info inspect kill kube load login logout logs machine network pause pod port ps pull push rename restart rm
  rmi run save search secret start stats stop system tag top unpause unshare update version volume wait`;

/** podman-run(1): what is typed most. */
const OPTIONS = `--add-host --annotation --cap-add --cap-drop --cgroupns --cidfile --cpu-shares --cpus --cpuset-cpus -c
  --detach -d --detach-keys --device --dns --entrypoint --env -e --env-file --expose --gpus --group-add --health-cmd
  --hostname --init --interactive -i --ip --ipc --label -l --link --log-driver --mac-address --memory -m --memory-swap
  --mount --name --net --network --no-hosts --pid --pids-limit --platform --privileged --publish -p -P --pull --quiet
  --read-only --replace --restart --rm --seccomp --secret --security-opt --shm-size --stop-timeout --sysctl --systemd
  --timeout --tmpfs --tty -t --ulimit --umask --user -u --userns --uts --volume -v --volumes-from --workdir -w`;

test('each command and option of podman’s is kiln’s, or has a hint', (t) => {
  const words = (text: string) => text.split(/\s+/);
  const unknown = words(COMMANDS).filter((word) => pageOf([word]) === '');
  t.true(unknown.length > 20);
  t.deepEqual(
    unknown.filter((word) => commandHint(word) === undefined),
    [],
  );
  // --publish is parsed, and tells by itself.
  const page = `${pageOf(['run'])} \`-p, --publish\``;
  const others = words(OPTIONS).filter((word) => !new RegExp(`[\` ]${word}[\`, [<]`).test(page));
  t.true(others.length > 30);
  t.deepEqual(
    others.filter((word) => optionHint('run', word) === undefined),
    [],
  );
});

test('every command and option that a hint names exists', (t) => {
  const source = readFileSync(join(REFERENCE, '../../src/cli/other-words.ts'), 'utf8');
  const quoted = [...source.matchAll(/`(kiln [^`$]+?)`|(--[a-z-]+ of `kiln run`)/g)];
  t.true(quoted.length > 20);
  for (const [, command = 'kiln run'] of quoted) {
    const words = command.replaceAll('\\', '').split(' ').slice(1);
    const page = pageOf(words.slice(0, 2)) || pageOf(words.slice(0, 1));
    t.not(page, '', command);
    for (const option of words.filter((word) => /^--[a-z]/.test(word)))
      t.regex(page, new RegExp(`${option}[ \`[]`), command);
  }
});

/** By what its user types: what kiln does, or the hint that it gives. */
const TUTORIAL: readonly (readonly [words: string, answer: RegExp])[] = [
  ['search httpd --filter=is-official', /hint: `skopeo list-tags docker:\/\/HOST\/NAME`/],
  ['pull docker.io/library/httpd', /hint: did you mean kiln image pull\?/],
  ['image pull docker.io/library/httpd', /hint: write docker:\/\/docker\.io\/library\/httpd/],
  ['images', /hint: did you mean kiln image ls\?/],
  [
    'run -dt docker.io/library/httpd',
    /hint: if docker\.io\/library\/httpd is an image: `kiln image pull docker:\/\/docker\.io\/library\/httpd`, then `kiln run -r httpd -- COMMAND`/,
  ],
  ['run -dt -p 8080:80/tcp docker.io/library/httpd', /if docker\.io/],
  [
    'run -dt -r docker.io/library/httpd:2.4',
    /hint: `kiln image pull docker:\/\/docker\.io\/library\/httpd:2\.4` .* then it is `-r httpd`/,
  ],
  ['run -r docker://alpine', /hint: `kiln image pull docker:\/\/alpine` .* then it is `-r alpine`/],
  ['run -dt -r busybox --name web -- sh -c "echo served; sleep 100"', /^\w{10}$/],
  ['ps', /^\w{10} +running .* busybox /m],
  ['inspect -l', /hint: name it: `kiln ps -q` lists ids/],
  ['inspect web', /"state": "running"/],
  ['logs --latest', /hint: name it/],
  ['logs web', /^served/],
  ['top web', /sleep 100/],
  ['container checkpoint web', /hint: .*for checkpoint and restore, `kiln snapshot ID NAME`/],
  ['container restore web', /`kiln run --from NAME` begins with them: processes are not kept/],
  ['stop --latest', /hint: name it/],
  ['stop web', /^web|^\w{10}/],
  ['ps -a', /web +ended \d+/],
  ['rm --latest', /hint: did you mean kiln kill\?/],
];

test.serial('no command of podman’s tutorial meets a refusal that does not help', async (t) => {
  const env = { ...state.env, KILN_IMAGE: undefined };
  for (const [typed, answer] of TUTORIAL) {
    const words = [...typed.matchAll(/"([^"]*)"|(\S+)/g)].map(([word, quoted]) => quoted ?? word);
    const { exitCode, stdout, stderr } = await state.kiln(words, { env });
    const said = `${stdout}${stderr}`;
    t.regex(said, answer, typed);
    t.is(exitCode === 0, !said.includes('hint:'), `${typed}: ${said}`);
  }
});
