import { once } from 'node:events';
import { readdir, readFile, readlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import test from 'ava';
import { execa } from 'execa';
import { below, ownPath } from '../../../src/host/files/held.ts';
import { hostArchitecture } from '../../../src/host/process/architecture.ts';
import { removeImage } from '../../../src/image/store/images.ts';
import { buildPackage } from '../../../src/jobs/rpmbuild/build.ts';
import type { BuildReport } from '../../../src/jobs/rpmbuild/outcome/report.ts';
import { addedRepository } from '../../../src/jobs/rpmbuild/request.ts';
import { resultJsonSchema } from '../../../src/result/schema.ts';
import { debianRepository } from '../../image/image-state.ts';
import { PATIENCE } from '../../support/busybox-state.ts';
import { createNetwork, virsh } from '../../support/libvirt-network.ts';
import { long } from '../../support/long.ts';
import { makeKey, rpmkeys } from '../signing-keys.ts';
import {
  type BuildState,
  buildState,
  leftovers,
  resultFile,
  sourcePackage,
  specText,
  WANTED,
} from './build-state.ts';

let state: BuildState;

test.before(async (t) => {
  t.timeout(300_000 * PATIENCE);
  state = await buildState('all');
});
test.after.always(() => state[Symbol.asyncDispose]());

/** Prints a network namespace, and how many interfaces it has. */
const NETWORK = '$(readlink /proc/self/ns/net) $(grep -c : /proc/net/dev)';

const HELLO = {
  name: 'hello',
  preamble: 'BuildRequires: tool-a, gcc',
  sources: { 'hello.c': '#include <stdio.h>\nint main(void) { puts("hi"); return 0; }\n' },
  build:
    'id; cat /proc/net/dev; readlink /proc/self/ns/net; tool-a; gcc $CFLAGS -o hello %{SOURCE0}',
  install: 'mkdir -p %{buildroot}/usr/bin; cp hello %{buildroot}/usr/bin',
  check: 'test "$(./hello)" = hi',
  files: '/usr/bin/hello\n/usr/share/hello',
};

function passed(t: { is(a: unknown, b: unknown, m?: string): void }, report: BuildReport) {
  const { failure, lastLines } = report;
  t.is(report.exitStatus, 0, `${failure?.message}\n${failure?.stack}\n${lastLines.join('\n')}`);
}

/** rpm's own word about a package. */
async function query(report: BuildReport, file: string, format: string): Promise<string> {
  const path = join(report.resultDirectory, file);
  return (await execa('rpm', ['-qp', '--nosignature', '--qf', format, path])).stdout;
}

test.serial('a source package is built in a layer that has what it requires', async (t) => {
  t.timeout(300_000 * PATIENCE);
  const phases: string[] = [];
  const report = await state.build(
    HELLO,
    {},
    {
      onPhase: (phase, event) => phases.push(`${event} ${phase}`),
    },
  );
  passed(t, report);
  const arch = (await execa('rpm', ['--eval', '%_arch'])).stdout;
  t.deepEqual((await readdir(report.resultDirectory)).sort(), [
    'SHA256SUMS',
    'build.log',
    'buildroot_lock.json',
    'hello-1-1.src.rpm',
    `hello-1-1.${arch}.rpm`,
    'hw_info.log',
    'installed_pkgs.log',
    'lock.json',
    'provenance.json',
    'report.html',
    'result.json',
    'root.log',
    'sbom.spdx.json',
    'state.log',
  ]);
  t.is(
    await query(report, `hello-1-1.${arch}.rpm`, '[%{FILENAMES} ]'),
    '/usr/bin/hello /usr/share/hello ',
  );
  t.is(
    await query(report, 'hello-1-1.src.rpm', '[%{REQUIRENAME} ]').then((s) => s.includes('tool-a')),
    true,
  );
  const log = await resultFile(report, 'build.log');
  t.regex(log, /^uid=1000\(build\)/m);
  t.regex(log, /^tool-a says hello$/m);
  const interfaces = [...log.matchAll(/^ *(\w+): +\d+/gm)].map(([, name]) => name);
  t.deepEqual(interfaces, ['lo']);
  t.regex(
    await resultFile(report, 'installed_pkgs.log'),
    /^tool-a-1-1\.noarch \d+ \d+ \w* installed$/m,
  );
  t.regex(await resultFile(report, 'root.log'), / - installing tool-a-1-1\.noarch \(\S+\)$/m);
  t.regex(await resultFile(report, 'state.log'), /^\S+ \S+,\d{3} - Start: build$/m);
  t.true(phases.indexOf('start compile') < phases.indexOf('start check'));
  t.deepEqual(report.buildRequires, ['gcc', 'tool-a']);
  t.not(report.image?.id, report.base?.id);
  t.deepEqual(await leftovers(state), []);

  const result = JSON.parse(await resultFile(report, 'result.json'));
  const validate = new Ajv2020({ strict: false, validateFormats: false }).compile(
    resultJsonSchema() as object,
  );
  t.true(validate(result), JSON.stringify(validate.errors));
  const names = result.phases.map(({ name }: { name: string }) => name);
  for (const name of ['srpm', 'dependencies', 'build', 'compile', 'check', 'collect']) {
    t.true(names.includes(name), name);
  }
  t.deepEqual(result.policy.capabilities, { bounding: [], effective: [] });
  t.true(result.policy.limits.memory > 0 && result.policy.limits.pids > 0, 'usual limits');
  const { stdout } = await execa('sha256sum', [`hello-1-1.${arch}.rpm`], {
    cwd: report.resultDirectory,
  });
  t.is(result.build.packages[0].sha256, stdout.slice(0, 64));
});

test.serial('a build that needs nothing more runs in the base itself', async (t) => {
  const report = await state.build({ name: 'plain', preamble: 'BuildRequires: gcc' });
  passed(t, report);
  t.is(report.image?.id, report.base?.id);
});

test.serial('dynamic requirements are met in rounds, and remembered afterwards', async (t) => {
  // tool-b is asked for only once tool-a is there.
  const parts = {
    name: 'dynamic',
    prep: 'echo prepared >> prepared',
    buildrequires: 'echo tool-a\nif command -v tool-a >/dev/null; then echo tool-b; fi',
    build: 'tool-a && tool-b',
    install: 'cp prepared %{buildroot}/usr/share/dynamic',
  };
  const path = await sourcePackage(await state.fresh(), parts);
  const sandboxes = (report: BuildReport) =>
    report.phases.filter(({ name }) => name === 'sandbox').length;
  const first = await buildPackage(state.images.engine, await state.request(path));
  passed(t, first);
  t.deepEqual([...first.buildRequires].sort(), ['tool-a', 'tool-b']);
  t.is(sandboxes(first), 3);
  const second = await buildPackage(state.images.engine, await state.request(path));
  passed(t, second);
  t.is(sandboxes(second), 1);
  t.is(second.image?.id, first.image?.id);
  t.deepEqual([...second.buildRequires].sort(), ['tool-a', 'tool-b']);
});

test.serial('generated requirements are in the source package, as with rpmbuild -ba', async (t) => {
  const parts = {
    name: 'generated',
    preamble: 'BuildArch: noarch\nBuildRequires: gcc',
    buildrequires: "echo 'tool-a >= 1'\necho tool-b",
  };
  const work = await state.fresh();
  await writeFile(join(work, 'generated.spec'), specText(parts));
  const options = ['-ba', '--quiet', '--nodeps', '--define', `_topdir ${work}`];
  await execa('rpmbuild', [...options, join(work, 'generated.spec')]);
  const format = ['[%{REQUIRENAME}', '%{REQUIREFLAGS:hex}', '%{REQUIREVERSION}\\n]'].join(' ');
  const file = 'generated-1-1.src.rpm';
  const of = async (path: string) =>
    (await execa('rpm', ['-qp', '--nosignature', '--qf', format, path])).stdout;
  const expected = await of(join(work, 'SRPMS', file));
  t.regex(expected, /^tool-a .* 1$/m);

  const path = await sourcePackage(await state.fresh(), parts);
  t.not(await of(path), expected);
  const built = await buildPackage(state.images.engine, await state.request(path));
  passed(t, built);
  t.is(await of(join(built.resultDirectory, file)), expected);
  // A network for one of the phases only: %prep and the rest run in sandboxes of their own.
  const network = await state.request(path, {
    networkPhases: ['buildrequires'],
    network: 'host',
  });
  const apart = await buildPackage(state.images.engine, network);
  passed(t, apart);
  t.is(await of(join(apart.resultDirectory, file)), expected);
});

long('a package that asks for one more requirement each time is ended', async (t) => {
  t.timeout(300_000 * PATIENCE);
  const steps = await state.fresh();
  const spec = join(steps, 'steps.spec');
  const numbers = Array.from({ length: 24 }, (_, n) => n);
  const sub = (n: number) => `%package -n step-${n}\nSummary: x\n%description -n step-${n}\nx\n`;
  await writeFile(
    spec,
    `Name: steps\nVersion: 1\nRelease: 1\nSummary: x\nLicense: MIT\nBuildArch: noarch\n%description\nx\n${numbers.map(sub).join('')}${numbers.map((n) => `%files -n step-${n}\n`).join('')}`,
  );
  const top = ['--define', `_topdir ${steps}`, '--define', `_rpmdir ${steps}`];
  await execa('rpmbuild', ['-bb', '--quiet', ...top, spec]);
  await execa('createrepo_c', ['--quiet', steps]);
  const report = await state.build(
    { name: 'endless', buildrequires: "echo step-$(rpm -qa 'step-*' | wc -l)" },
    { repositories: [addedRepository(steps, 0, hostArchitecture(), '/')] },
  );
  t.is(report.failure?.code, 'E_BUILD_LOOP');
  t.is(report.exitStatus, 1);
  t.deepEqual(await leftovers(state), []);
});

test.serial('options reach rpmbuild, and so do the macros of the image', async (t) => {
  const parts = {
    name: 'options',
    preamble: '%bcond_with extra\n%bcond_without usual',
    build:
      'echo extra=%{with extra} usual=%{with usual} mine=%{?mine} shell=%{_buildshell} %{?more}',
    check: 'echo CHECKED',
  };
  const report = await state.build(parts, {
    defines: ['mine some value'],
    with: ['extra'],
    without: ['usual'],
    nocheck: true,
    rpmbuildOptions: ['--define', 'more and more'],
    target: 'noarch',
  });
  passed(t, report);
  const log = await resultFile(report, 'build.log');
  t.regex(log, /^extra=1 usual=0 mine=some value shell=\/bin\/bash and more$/m);
  t.notRegex(log, /^CHECKED$/m);
  t.deepEqual(
    report.packages.map(({ file }) => file),
    ['options-1-1.noarch.rpm'],
  );
});

test.serial('a spec and its sources can be built', async (t) => {
  const directory = await state.fresh();
  await writeFile(join(directory, 'hello.spec'), specText(HELLO));
  await writeFile(join(directory, 'hello.c'), HELLO.sources['hello.c']);
  const result = await state.fresh();
  const { exitCode, stderr, stdout } = await state.images.kiln([
    'build',
    '-r',
    state.recipe,
    '--spec',
    join(directory, 'hello.spec'),
    '--sources',
    directory,
    '--resultdir',
    result,
    '--enable-network',
  ]);
  t.is(exitCode, 0, String(stderr));
  // %build shows its network: the host's, which it was given.
  t.true(
    String(stdout)
      .split('\n')
      .includes(await readlink('/proc/self/ns/net')),
  );
  t.regex(String(stdout), /^Executing\(%build\)/m);
  t.regex(String(stderr), /^kiln: check$/m);
  t.true((await readdir(result)).includes('hello-1-1.src.rpm'));

  // A spec is what --spec names, whatever it is called.
  await writeFile(join(directory, 'spec.in'), specText({ name: 'other' }));
  const words = ['build', '-q', '-r', state.recipe, '--spec', join(directory, 'spec.in')];
  const other = await state.images.kiln([...words, '--resultdir', await state.fresh()]);
  t.is(other.exitCode, 0, String(other.stderr));
});

test.serial('additional packages and added repositories are used', async (t) => {
  const missing = await state.build({ name: 'extra', build: 'tool-c' }, { packages: ['tool-c'] });
  passed(t, missing);
  t.regex(await resultFile(missing, 'build.log'), /^tool-c says hello$/m);
});

test.serial('a lock restores the same image, offline and without a solver', async (t) => {
  const path = await sourcePackage(await state.fresh(), HELLO);
  const first = await buildPackage(state.images.engine, await state.request(path));
  passed(t, first);
  await removeImage(state.images.engine.paths, first.image?.id ?? '');
  const lock = below(first.resultDirectory, 'lock.json');
  const request = await state.request(path, { image: '', lock, offline: true });
  const second = await buildPackage(state.images.engine, request);
  passed(t, second);
  t.is(second.image?.id, first.image?.id);
  t.false(second.phases.some(({ name }) => name === 'dependencies'));
  t.is(await resultFile(second, 'lock.json'), await readFile(lock, 'utf8'));
  const other = await sourcePackage(await state.fresh(), {
    name: 'other',
    preamble: 'BuildRequires: tool-b',
  });
  const lacking = await buildPackage(
    state.images.engine,
    await state.request(other, { image: '', lock }),
  );
  t.is(lacking.failure?.code, 'E_BUILD_REQUIRES');
  t.is(lacking.exitStatus, 4);
  t.true(lacking.lastLines.some((line) => line.includes('tool-b is needed by other-1-1')));
  // A package that is in no directory of this machine, and was not downloaded either.
  const elsewhere = JSON.parse(await readFile(lock, 'utf8'));
  const far = elsewhere.image.packages.packages.at(-1);
  Object.assign(far, {
    location: `http://127.0.0.1:9/${far.location}`,
    digest: `sha256:${'0'.repeat(64)}`,
  });
  await writeFile(lock, JSON.stringify(elsewhere));
  const offline = await buildPackage(
    state.images.engine,
    await state.request(path, { image: '', lock, offline: true }),
  );
  t.is(offline.failure?.code, 'E_BUILD_OFFLINE');
  t.regex(offline.failure?.message ?? '', /^1 package is not on this machine/);
  t.true(offline.failure?.message.includes(far.nevra));
  const buildroot = JSON.parse(await resultFile(second, 'buildroot_lock.json'));
  const names = buildroot.buildroot.rpms.map(({ name }: { name: string }) => name);
  t.true(names.includes('tool-a'));
  const installed = (await resultFile(second, 'installed_pkgs.log')).trim().split('\n');
  t.is(names.length, installed.length);
});

test.serial('an unchanged base is not read again, but a changed one is', async (t) => {
  const { images } = state;
  const repositories = [await debianRepository(), { id: 'tools', directory: state.tools }];
  const yaml = `${WANTED.noarch}\nfiles: [{ path: /etc/marked, content: "1" }]`;
  const path = await sourcePackage(await state.fresh(), { name: 'based' });
  const built = async (text: string) => {
    const image = await images.recipe('based', text, repositories);
    const report = await buildPackage(images.engine, await state.request(path, { image }));
    passed(t, report);
    return await resultFile(report, 'lock.json');
  };
  const first = await built(yaml);
  // The file is written anew with the same words: that is no reason for another answer.
  t.is(await built(yaml), first);
  const marked = JSON.parse(await built(yaml.replace('"1"', '"2"'))).image.image.files;
  t.is(Buffer.from(marked[0].content, 'base64').toString(), '2');
  const before = JSON.parse(first).image.image.files;
  t.is(Buffer.from(before[0].content, 'base64').toString(), '1');
});

long('eight concurrent builds make one image, the same as builds in sequence', async (t) => {
  t.timeout(300_000 * PATIENCE);
  const { paths } = state.images.engine;
  const before = new Set(await readdir(paths.images));
  const parts = {
    ...HELLO,
    name: 'crowd',
    preamble: 'BuildRequires: tool-b, tool-c, gcc',
    build: HELLO.build.replace('tool-a', 'tool-b'),
    files: '/usr/bin/hello\n/usr/share/crowd',
  };
  const path = await sourcePackage(await state.fresh(), parts);
  const reports = await Promise.all(
    Array.from({ length: 8 }, async () =>
      buildPackage(state.images.engine, await state.request(path)),
    ),
  );
  for (const report of reports) passed(t, report);
  const made = (await readdir(paths.images)).filter((id) => !before.has(id));
  t.deepEqual(made, [reports[0]?.image?.id]);
  t.deepEqual(await leftovers(state), []);
});

test.serial('the packages that were built can be installed in a fresh sandbox', async (t) => {
  const good = await state.build(
    { name: 'good', preamble: 'BuildArch: noarch\nRequires: tool-c', sections: '%post\ntool-c' },
    { postinstall: true },
  );
  passed(t, good);
  t.regex(await resultFile(good, 'root.log'), /^tool-c says hello$/m);
  const unmet = await state.build(
    { name: 'unmet', preamble: 'BuildArch: noarch\nRequires: nobody-has-this' },
    { postinstall: true },
  );
  t.is(unmet.failure?.code, 'E_BUILD_POSTINSTALL');
  t.is(unmet.exitStatus, 5);
  const broken = await state.build(
    { name: 'broken', preamble: 'BuildArch: noarch', sections: '%pre\necho no way\nexit 3' },
    { postinstall: true },
  );
  t.is(broken.failure?.code, 'E_BUILD_POSTINSTALL');
  t.true(broken.lastLines.includes('no way'));
  t.deepEqual(await leftovers(state), []);
});

long('packages are signed before they are announced', async (t) => {
  const parts = { name: 'signed', preamble: 'BuildArch: noarch' };
  const directory = await state.fresh();
  const key = await makeKey(directory, 'rsa2048', 'a secret');
  const passphraseFile = below(ownPath(directory), 'passphrase');
  await writeFile(passphraseFile, 'not it\n');
  const signing = { signKey: ownPath(key.secret), signPassphraseFile: passphraseFile };
  const refused = await state.build(parts, signing);
  t.is(refused.failure?.code, 'E_SIGN_KEY');
  t.deepEqual(refused.phases, []);

  await writeFile(passphraseFile, 'a secret\n');
  const report = await state.build(parts, { ...signing, postinstall: true });
  passed(t, report);
  for (const file of ['signed-1-1.noarch.rpm', 'signed-1-1.src.rpm']) {
    const { ok, text } = await rpmkeys(directory, join(report.resultDirectory, file), [key.public]);
    t.true(ok, text);
    t.regex(text, /Header V4 RSA/);
  }
  const check = ['--strict', '--quiet', '-c', 'SHA256SUMS'];
  await execa('sha256sum', check, { cwd: report.resultDirectory });
  const result = JSON.parse(await resultFile(report, 'result.json'));
  const names = result.phases.map(({ name }: { name: string }) => name);
  t.deepEqual(names.slice(-2), ['postinstall', 'sign']);
  for (const { path, sha256 } of result.artifacts) {
    const { stdout } = await execa('sha256sum', [join(report.resultDirectory, path)]);
    t.is(stdout.slice(0, 64), sha256, path);
  }
  const text = JSON.stringify(result) + (await resultFile(report, 'provenance.json'));
  t.false(text.includes('a secret'));
  t.deepEqual(await leftovers(state), []);
});

test.serial('a phase has a network only if it was given one', async (t) => {
  const parts = {
    name: 'network',
    buildrequires: `echo asking: ${NETWORK} >&2; echo bash`,
    build: `echo building: ${NETWORK}`,
  };
  const host = await readlink('/proc/self/ns/net');
  const found = async (phases: readonly ('buildrequires' | 'build')[]) => {
    const report = await state.build(parts, { network: 'host', networkPhases: phases });
    passed(t, report);
    const log = await resultFile(report, 'build.log');
    return ['asking', 'building'].map((what) => {
      const [, inside, interfaces] = new RegExp(`^${what}: (\\S+) (\\d+)$`, 'm').exec(log) ?? [];
      return inside === host ? 'host' : `${interfaces} interface`;
    });
  };
  const [all, none] = ['host', '1 interface'];
  t.deepEqual(await found([]), [none, none]);
  t.deepEqual(await found(['buildrequires']), [all, none]);
  t.deepEqual(await found(['build']), [none, all]);
});

test.serial('every phase knows the host names, and has an address with a network', async (t) => {
  const names = 'getent hosts localhost "$(uname -n)" far.example';
  const parts = {
    name: 'names',
    buildrequires: 'echo bash',
    build: `${names}; cat /etc/resolv.conf`,
  };
  const alone = 'getent hosts localhost; cat /etc/resolv.conf || echo nobody';
  // It starts the libvirtd that the network is made in.
  const local = await state.build({ ...parts, build: alone });
  t.regex(await resultFile(local, 'build.log'), /^::1 +localhost/m);
  t.regex(await resultFile(local, 'build.log'), /^nobody$/m);
  const { paths } = state.images.engine;
  const third = ((process.pid + 200) % 250) + 1;
  const host = `10.98.${third}.1`;
  const range = `<range start='10.98.${third}.50' end='10.98.${third}.60'/>`;
  await createNetwork(paths, {
    ...{ name: 'builds', bridge: `kb${process.pid}`, host, dhcp: `<dhcp>${range}</dhcp>` },
    more: "<dns><host ip='192.0.2.99'><hostname>far.example</hostname></host></dns>",
  });
  try {
    const network = [{ name: 'builds', addresses: [], routes: [], dhcp: true }];
    const report = await state.build(parts, { network, networkPhases: ['build'] });
    passed(t, report);
    const log = await resultFile(report, 'build.log');
    t.regex(log, /^192\.0\.2\.99 +far\.example$/m);
    t.regex(log, new RegExp(`^10\\.98\\.${third}\\.(?:5\\d|60) +kiln$`, 'm'));
    t.regex(log, new RegExp(`^nameserver ${host}$`, 'm'));
  } finally {
    await virsh(paths, 'net-destroy', 'builds');
  }
});

test.serial('a phase reaches the hosts on its list, and the next phase does not', async (t) => {
  const server = createServer((_request, response) => response.end('from outside\n'));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  const get = `bash -c 'exec 3<>/dev/tcp/127.0.0.1/3128 && printf "GET http://${host}/ HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n" >&3 && grep outside <&3' || echo nothing`;
  try {
    const parts = {
      name: 'egress',
      buildrequires: `(echo "asking: $(${get})") >&2; echo bash`,
      build: `echo "building: $(${get})"`,
    };
    const network = { egress: [host], networkPhases: ['buildrequires'] } as const;
    const report = await state.build(parts, network);
    passed(t, report);
    const log = await resultFile(report, 'build.log');
    t.regex(log, /^asking: from outside$/m);
    t.regex(log, /^building: nothing$/m);
    const { egress } = JSON.parse(await resultFile(report, 'result.json'));
    t.is(egress[0].host, '127.0.0.1');
    t.is(egress.length, 1);
  } finally {
    server.close();
  }
});
