import { fchmodSync, writeSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { Document } from 'yaml';
import { defined, some } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { unlessErrno } from '../../host/calls/libc.ts';
import { NEW_FILE, openat2, unlinkat } from '../../host/files/at.ts';
import { writeWholeSync } from '../../host/state/checked-file.ts';
import { isImageName } from '../../image/find.ts';
import { RecipeDocument, readRecipeText } from '../../recipe/document.ts';
import { RecipeError } from '../../recipe/problem.ts';
import { parseYaml } from '../../recipe/yaml.ts';
import { gatewayRoute, problemOf } from '../../sandbox/policy/network.ts';
import { parseUnitFile } from '../unit/unit-file.ts';
import {
  type NetworkFile,
  networkFile,
  oneOrMore,
  type ServiceDefinition,
  type ServiceFile,
  serviceSchema,
} from './definition.ts';

const HINT =
  'docs/services.md explains them; `kiln service schema` prints the JSON Schema of service.yaml';

export async function readDefinition(path: string): Promise<ServiceDefinition> {
  return checkText(path, readBounded(path));
}

export async function readServiceFile(path: string): Promise<ServiceFile> {
  const text = readBounded(path);
  checkText(path, text);
  const file = parseYaml(text).toJS() as ServiceFile;
  return { ...file, image: imageIn(path, file.image) };
}

/** What a service file calls its image: a path is relative to the file. */
export function imageIn(file: string, image: string): string {
  return isImageName(image) ? image : resolve(dirname(file), image);
}

export function checkDefinition(name: string, file: ServiceFile): ServiceDefinition {
  return checked(new RecipeDocument(name, ''), file, 'service');
}

export function writeDefinition(path: string, file: ServiceFile): void {
  const document = new Document(file);
  document.commentBefore = HEADER;
  writeWholeSync(path, document.toString({ lineWidth: 0 }), { flush: true });
}

const HEADER = ` A service of kiln. Edit it and restart the service; \`kiln service schema\` prints what can stand here.`;

/**
 * `store` writes the changed file. A person's comments are kept. Throws as {@link readDefinition}.
 * @param title what mistakes are said to be in
 */
export function changeDefinition(
  path: string,
  change: (document: Document.Parsed) => void,
  title = path,
) {
  const document = parseYaml(readBounded(path));
  change(document);
  const text = document.toString({ lineWidth: 0 });
  const definition = checkText(title, text);
  return { definition, store: () => writeWholeSync(path, text, { flush: true }) };
}

function checkText(path: string, text: string): ServiceDefinition {
  const document = new RecipeDocument(path, text);
  return checked(document, document.value(), 'service file');
}

function checked(document: RecipeDocument, value: unknown, kind: string): ServiceDefinition {
  const definition = value === undefined ? undefined : document.check(serviceSchema, value);
  if (definition !== undefined && document.problems.length === 0) return definition;
  throw new RecipeError(document.file, document.problems, HINT, kind);
}

function readBounded(path: string, hint = 'give the path of a service definition (.yaml)'): string {
  return readRecipeText(path, hint, undefined, 'E_SERVICE_READ');
}

/** Replaces an entry of a directory, even a link, by a plain file of root's. */
export function replaceFileIn(directory: number, name: string, text: string): void {
  unlessErrno(['ENOENT'], () => unlinkat(directory, name));
  using file = closing(openat2(directory, name, NEW_FILE));
  fchmodSync(file.fd, 0o644);
  writeSync(file.fd, text);
}

type OldSections = ReadonlyMap<string, ReadonlyMap<string, string>>;
type Get = (section: string, key: string) => string | undefined;
interface OldBind {
  readonly source: string;
  readonly target: string;
  readonly image?: true;
}
interface OldRam {
  readonly target: string;
  readonly size?: number;
}

/**
 * A `.sandbox` file of virt-sandbox-service (GVirSandboxConfig's key file, 2011-2018). It names no image,
 * because it ran the host's own files; its units were links in its private /etc.
 */
export async function readOldSandbox(path: string): Promise<OldSandbox> {
  const text = readBounded(path, 'such files lie in /etc/libvirt-sandbox/services');
  const sections = new Map<string, Map<string, string>>();
  for (const { section, key, value } of parseUnitFile(path, text).settings) {
    const values = sections.get(section) ?? new Map<string, string>();
    sections.set(section, values.set(key, unescaped(value)));
  }
  if (!sections.has('core')) {
    throw new KilnError('E_OLD_SANDBOX', `${path} is not a file of virt-sandbox-service`, {
      hint: 'they lie in /etc/libvirt-sandbox/services and have a section [core]',
    });
  }
  return translate(path, sections);
}

/** GKeyFile's escapes. */
function unescaped(value: string): string {
  return value.replace(/\\([sntr\\])/g, (_, letter: string) =>
    letter === '\\' ? '\\' : { s: ' ', n: '\n', t: '\t', r: '\r' }[letter]!,
  );
}

interface OldSandbox {
  readonly name: string | undefined;
  /** What the systemd in it booted into: units of the host, which an image does not know. */
  readonly bootTarget: string | undefined;
  readonly file: Partial<ServiceFile>;
}

function translate(path: string, sections: OldSections): OldSandbox {
  const get: Get = (section, key) => sections.get(section)?.get(key);
  const { mounts, tmpfs, guestBinds, refused } = oldMounts(sections, get);
  const command = valuesOf(get, 'command', 'argv');
  const networks = oldNetworks(sections, get, refused);
  if (refused.length > 0) throw withoutCounterpart(path, refused);
  const label = get('security', 'label');
  const kind = get('security', 'dynamic') === 'false' ? 'static' : 'dynamic';
  const user = command.length === 0 ? undefined : get('identity', 'uid');
  return {
    name: get('core', 'name'),
    bootTarget: get('service', 'bootTarget'),
    file: defined({
      command: some(command),
      user,
      mounts: some(mounts),
      tmpfs: some(tmpfs),
      'guest-binds': some(guestBinds),
      network: oneOrMore(networks),
      label: label && `${kind}:${label}`,
    }),
  };
}

function withoutCounterpart(path: string, refused: readonly string[]): KilnError {
  const what = refused.join('\n  ');
  return new KilnError('E_OLD_SANDBOX', `${path} has what a service cannot have\n  ${what}`, {
    hint: 'take these sections out of a copy of the file; docs/virt-sandbox.md says what to write instead',
  });
}

/** `NAME.0`, `NAME.1` and so on of a section. */
function valuesOf(get: Get, section: string, name: string): string[] {
  const values: string[] = [];
  for (let value = get(section, `${name}.0`); value !== undefined; ) {
    values.push(value);
    value = get(section, `${name}.${values.length}`);
  }
  return values;
}

function oldMounts(sections: OldSections, get: Get) {
  const [mounts, tmpfs, guestBinds]: [OldBind[], OldRam[], OldBind[]] = [[], [], []];
  const refused: string[] = [];
  for (let index = 0; sections.has(`mount.${index}`); index++) {
    const section = `mount.${index}`;
    const [type = '', source, target] = ['type', 'source', 'target'].map((key) =>
      get(section, key),
    );
    if (target === undefined) continue;
    if (/^\/(?:etc|var|run|tmp)$/.test(target)) continue; // every service has its own
    const kind = type.replace('GVirSandboxConfigMount', '');
    if (kind.endsWith('HostBind') && source !== undefined) mounts.push({ source, target });
    else if (kind.endsWith('HostImage') && source !== undefined)
      mounts.push({ source, target, image: true });
    else if (kind.endsWith('GuestBind') && source !== undefined)
      guestBinds.push({ source, target });
    else if (kind === 'Ram') tmpfs.push({ target, ...defined({ size: sizeIn(get, section) }) });
    else refused.push(`${section}: a mount of type ${kind} at ${target}`);
  }
  return { mounts, tmpfs, guestBinds, refused };
}

/** Bytes, as GVirSandboxConfigMountRam has them. */
function sizeIn(get: Get, section: string): number | undefined {
  const usage = Number(get(section, 'usage') ?? 0);
  return Number.isSafeInteger(usage) && usage > 0 ? usage : undefined;
}

/** Networks of libvirt's, or the reason why one cannot be had. */
function oldNetworks(sections: OldSections, get: Get, refused: string[]): NetworkFile[] {
  const networks: NetworkFile[] = [];
  for (let nth = 0; sections.has(`network.${nth}`); nth++) {
    const section = `network.${nth}`;
    const name = get(section, 'source');
    if (name === undefined) {
      refused.push(`${section}: it names no network`);
      continue;
    }
    const addresses = numbered(sections, `${section}.address`).map(
      (each) => `${get(each, 'primary')}/${get(each, 'prefix') ?? 24}`,
    );
    const routes = numbered(sections, `${section}.route`).map((each) => {
      const via = get(each, 'gateway') ?? '';
      const { to } = gatewayRoute(via);
      const target = get(each, 'target');
      return { to: target === undefined ? to : `${target}/${get(each, 'prefix') ?? 0}`, via };
    });
    const network = {
      ...{ name, addresses, routes },
      dhcp: addresses.length === 0 && get(section, 'dhcp') !== 'false',
      ...defined({ mac: get(section, 'mac'), filter: get(section, 'filter') }),
    };
    const problem = problemOf(network);
    if (problem === undefined) networks.push(networkFile(network));
    else
      refused.push(
        `${section}: ${problem || 'an address or a route is not written as it must be'}`,
      );
  }
  return networks;
}

function numbered(sections: OldSections, prefix: string): string[] {
  const found: string[] = [];
  for (let nth = 0; sections.has(`${prefix}.${nth}`); nth++) found.push(`${prefix}.${nth}`);
  return found;
}
