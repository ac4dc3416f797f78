/** What podman and docker have and kiln calls otherwise, or does otherwise: for hints. */

/** Commands that are kiln's by another name. */
const COMMANDS: ReadonlyMap<string, string> = new Map(
  Object.entries({
    ...{ images: 'image ls', pull: 'image pull', rmi: 'image rm', tag: 'image tag' },
    ...{ save: 'image export', import: 'image import', rm: 'kill', prune: 'gc' },
    ...{ list: 'ps', ls: 'ps', start: 'service start', create: 'service create' },
    ...{ info: 'doctor', load: 'image import' },
    ...{ 'image inspect': 'image show', 'image list': 'image ls' },
    ...{ 'image save': 'image export', 'image load': 'image import', 'image remove': 'image rm' },
  }),
);

/** What to do in place of commands that kiln does not have. */
const INSTEAD: ReadonlyMap<string, string> = new Map(
  Object.entries({
    login:
      '`skopeo login HOST` logs in, for `kiln image pull` as well; its --authfile takes another file of logins',
    push: '`kiln image export -o layout NAME`, then `skopeo copy oci:layout docker://HOST/NAME`',
    search: '`skopeo list-tags docker://HOST/NAME` asks a registry',
    volume: '--bind DIR:PATH shows a folder of this host; services have volumes (docs/services.md)',
    network: '--network NAME is a network of libvirt’s, which `virsh net-list` lists',
    'image push':
      '`kiln image export -o layout NAME`, then `skopeo copy oci:layout docker://HOST/NAME`',
  }),
);

const OPTIONS: ReadonlyMap<string, string> = new Map(
  Object.entries({
    '--privileged': 'no sandbox is privileged: --cap-add and --profile give what a command needs',
    '--entrypoint':
      'it is an option of `kiln run`: no other command runs the ENTRYPOINT of an image',
    '--read-only':
      'it is an option of `kiln run` and `kiln shell`; a build writes to a layer that is gone with it',
    '--cap-drop': 'a command has no capability but those of --cap-add, and root’s few',
    '--security-opt': '--seccomp, --label and --profile are what it stands for',
    '--device': 'a sandbox has none of the host’s devices',
    '--gpus': 'a sandbox has none of the host’s devices',
    '--net': 'did you mean --network?',
    '--publish': 'it is an option of `kiln run`, `shell` and `exec`, and of services',
    '--restart': 'a service is started again: docs/services.md',
    '--init': 'every sandbox has an init',
    '--userns': 'every sandbox has a user namespace with ids of its own',
  }),
);

/** A hint about a command that kiln does not know, with the words above it: `image prune`. */
export function commandHint(words: string): string | undefined {
  const known = COMMANDS.get(words);
  return known === undefined ? INSTEAD.get(words) : `did you mean kiln ${known}?`;
}

export function optionHint(long: string): string | undefined {
  return OPTIONS.get(long);
}
