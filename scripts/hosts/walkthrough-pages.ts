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
}

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
