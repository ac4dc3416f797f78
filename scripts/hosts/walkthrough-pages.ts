/** Which pages scripts/test-hosts --only walkthrough goes through, as whom, and what of them it does otherwise. */

/** A command of a page that is not typed as it stands there. */
interface Exception {
  /** How the command begins, or a line of it. */
  readonly at: string;
  /** Typed before it: what the page takes for granted. */
  readonly before?: string;
  /** Typed in its place; without it nothing is. */
  readonly instead?: string;
  /** Why the command is not typed as it stands there. */
  readonly why?: string;
}

export interface Page {
  readonly page: string;
  readonly user: 'root' | 'alice';
  /** Typed first, by root, in the reader's folder: what the reader has. */
  readonly has?: string;
  readonly exceptions?: readonly Exception[];
  /** Commands in the page's text, not in blocks, that are typed where they stand. */
  readonly inText?: readonly string[];
  /** Typed at the end of the page, by root: what the page says without a command, asked of the host. */
  readonly further?: readonly string[];
}

/** A line of Python about the events `e`, which are read from the standard input, one JSON object a line. */
const ofEvents = (line: string): string =>
  `python3 -c 'import json,sys; e=[json.loads(l) for l in sys.stdin if l.strip()]; ${line}'`;

/** An event in the journal: how it is asked for there, and what is to be true of the last one, `j`. */
const inJournal = (fields: string, truth: string): string =>
  `journalctl --sync; journalctl -t kiln ${fields} -o json --no-pager | ${ofEvents(`j=e[-1]; print(j); assert ${truth}`)}`;

const CHECKOUT = 'of a checkout, and it needs the internet';
const INTERNET = 'it needs the internet';
const RECIPES = 'cp -r /usr/lib/kiln/recipes .';

/** In the order in which somebody reads who has been told of kiln and has its .deb. */
export const walk: readonly Page[] = [
  {
    page: 'docs/administration.md',
    user: 'root',
    has: 'useradd -m -s /bin/bash walter; useradd -m -s /bin/bash alice; mkdir release; cp /srv/kiln.deb release/kiln_0.1.0-1_amd64.deb',
    inText: [
      'systemctl disable --now libvirtd.service libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket',
      'kiln events',
      'kiln config show',
      'kiln df',
      'kiln gc --verify',
    ],
    exceptions: [
      { at: 'scripts/release', why: CHECKOUT },
      { at: 'dnf install', why: 'of Fedora' },
      { at: 'npm install', why: 'the .deb is installed' },
      {
        at: '/usr/lib/kiln/scripts/fixtures',
        why: INTERNET,
        instead: 'mkdir -p /var/lib/kiln/fixtures && cp -a /srv/fixtures/. /var/lib/kiln/fixtures/',
      },
      { at: 'groupadd', why: 'the .deb has made the group' },
      { at: 'systemctl edit', why: 'it needs an editor, and is for units of a checkout' },
      { at: 'kiln user ls', before: "su - alice -c 'kiln run -r host -- true'" },
      { at: 'kiln user confirm', before: "su - alice -c 'kiln run -r host -- true'" },
      { at: 'mount -t fusectl', why: 'no file system in user space hangs there' },
      { at: "grep -v '^0$'", why: 'no file system in user space hangs there' },
      { at: 'echo 1 >/sys/fs/fuse', why: 'no file system in user space hangs there' },
    ],
  },
  {
    page: 'docs/events.md',
    user: 'root',
    exceptions: [
      {
        at: 'kiln events --since',
        before: `usermod -aG kiln alice
su - alice -c 'kiln run -r host -- sh -c "exit 3"'; test $? = 3
! su - alice -c 'kiln run --network host -r host -- true'`,
      },
      { at: 'kiln events -f --json', why: 'there is no jq' },
      {
        at: 'kiln events -f',
        why: 'it ends when it is interrupted',
        instead: `timeout 40 kiln events -f --json >followed & sleep 15; kiln run -r host -- echo followed; wait; ${ofEvents('assert ["start","end"]==[x["event"] for x in e if x["command"]=="run"]')} <followed`,
      },
      {
        at: 'journalctl -t kiln -f',
        why: 'it ends when it is interrupted',
        instead: 'journalctl --sync; journalctl -t kiln --no-pager | grep "alice run"',
      },
    ],
    further: [
      // Who ran what.
      inJournal(
        'KILN_USER=alice KILN_EVENT=end',
        'j["KILN_COMMAND"]=="run" and j["KILN_STATUS"]=="3" and j["KILN_UID"]==str(int(j["KILN_UID"])) and j["KILN_ARGV"].split("\\n")==["sh","-c","exit 3"] and j["PRIORITY"]=="6" and j["_UID"]=="0" and int(j["KILN_DURATION"])>0',
      ),
      inJournal(
        'KILN_EVENT=refused KILN_USER=alice',
        'j["PRIORITY"]=="4" and j["KILN_CODE"].startswith("E_") and j["KILN_COMMAND"]=="run"',
      ),
      '! kiln events --since 2099-01-01 | grep .',
      "! su - alice -c 'kiln events' | grep ' root '",
      // The API has the same.
      `varlinkctl -j call /run/kiln/io.kiln io.kiln.Events '{"since": 0}' | grep '"exit 3"'`,
      `(sleep 15; kiln run -r host -- echo varlink) & timeout 40 varlinkctl -j --more call /run/kiln/io.kiln io.kiln.Events '{"follow": true}' >more; wait; cat more; grep '"varlink"' more`,
      // What to alert on.
      `kiln run -r host --memory 64M -- sh -c 'tail /dev/zero'; kiln events --json | ${ofEvents('assert e[-1]["limit"]=="memory"')}`,
      `kiln run -r host --egress allowed.example -- curl -sS http://denied.example/; kiln events --json | ${ofEvents('assert [x for x in e if x.get("decision")=="denied" and x["host"]=="denied.example"]')}`,
      inJournal('KILN_DECISION=denied', 'j["PRIORITY"]=="4" and j["KILN_HOST"]=="denied.example"'),
      // A command that gets no file is kilnd's own.
      `echo a >a; kiln run --copy-in a:/tmp/a -r host -- sleep 600 & sleep 15; kill -9 $(pgrep kilnd-worker); wait; kiln run -r host -- true; sleep 5; kiln events --json | ${ofEvents('assert [x for x in e if x.get("outcome")=="lost" and x["argv"]==["sleep","600"]]')}`,
      inJournal('KILN_OUTCOME=lost', 'j["PRIORITY"]=="4" and "sleep" in j["KILN_ARGV"]'),
      // The log's other form.
      `mkdir -p /etc/systemd/system/kiln.service.d && printf '[Service]\nEnvironment=KILN_LOG=json\n' >/etc/systemd/system/kiln.service.d/log.conf && systemctl daemon-reload && systemctl restart kiln.service; kiln run -r host -- echo logged; tail -1 /var/lib/kiln/kilnd.log; grep '^{' /var/lib/kiln/kilnd.log | ${ofEvents('assert e[-1]["event"]=="end" and e[-1]["argv"]==["echo","logged"]')}`,
      'rm -r /etc/systemd/system/kiln.service.d && systemctl daemon-reload && systemctl restart kiln.service; kiln run -r host -- true; tail -1 /var/lib/kiln/kilnd.log | grep -v "^{"',
      // A distribution whose server is out of reach, as all are there.
      `! kiln image build fedora-44 2>said; cat said; grep 'hint: .*distribution-gpg-keys' said`,
      `mkdir -p /usr/share/distribution-gpg-keys/fedora && cp /srv/fixtures/debian-rpms/RPM-GPG-KEY* /usr/share/distribution-gpg-keys/fedora/RPM-GPG-KEY-fedora-44-primary; ! kiln image build fedora-44 2>said; cat said; grep 'fedoraproject' said && grep hint: said`,
    ],
  },
  {
    page: 'docs/getting-started.md',
    user: 'root',
  },
  {
    page: 'README.md',
    user: 'root',
    has: RECIPES,
    exceptions: [
      { at: 'scripts/quickstart', why: CHECKOUT },
      { at: 'scripts/test', why: CHECKOUT },
    ],
  },
  {
    page: 'docs/users.md',
    user: 'alice',
    has: `${RECIPES}; cp /srv/desk/* .`,
  },
  {
    page: 'docs/services.md',
    user: 'root',
    has: RECIPES,
    exceptions: [
      {
        at: 'machinectl shell whole',
        why: 'it wants a terminal',
        instead: "echo exit | script -qec 'machinectl shell whole' /dev/null",
      },
      {
        at: 'kiln service stop db',
        before:
          'kiln service create -r debian-apache -u apache2.service db && kiln service start db',
      },
      {
        at: 'kiln service backup db',
        why: 'db has no MariaDB there',
        instead: "kiln service backup db -o db.tar.zst --hook 'echo dump >/var/tmp/all.sql'",
      },
    ],
  },
  {
    page: 'docs/ci.md',
    user: 'alice',
    has: 'cp /srv/desk/* .; cp hello-2.12-1.src.rpm /srv/hello.src.rpm',
    inText: [
      'systemctl enable --now nightly.timer',
      'systemctl start nightly',
      'journalctl -u nightly',
    ],
  },
];
