import { KilnError } from '../../errors.ts';
import { readAccounts, readGroups } from '../../image/tree/accounts.ts';
import { suggestion } from '../../suggest.ts';
import type { Tree } from '../lifecycle/tree.ts';
import { readUnit, type ServiceUnit } from './read-unit.ts';
import { parseUnitFile, SettingList } from './unit-file.ts';
import { type UnitSurroundings, unitNameParts } from './values.ts';

/** The folders of system units; the first file of a name counts (systemd.unit(5), "Unit file load path"). */
const UNIT_FOLDERS = [
  '/etc/systemd/system',
  '/run/systemd/system',
  '/usr/local/lib/systemd/system',
  '/usr/lib/systemd/system',
  '/lib/systemd/system',
];

/** The form of a service unit's name (systemd.unit(5)). */
const UNIT_NAME = /^[A-Za-z0-9:_.\\-]+(?:@[A-Za-z0-9:_.\\-]*)?\.service$/;

/** The tree may be hostile, so the number is bounded. */
const DROP_INS_MAX = 100;

export function unitName(text: string): string {
  const name = /\.[a-z]+$/.test(text) ? text : `${text}.service`;
  if (UNIT_NAME.test(name) && name.length < 256) return name;
  throw new KilnError('E_UNIT', `${text} is not the name of a service unit`, {
    hint: 'such as apache2.service or postgresql@17-main.service; sockets and timers are not run',
  });
}

export function listUnits(tree: Tree): string[] {
  const names = UNIT_FOLDERS.flatMap((folder) => tree.list(folder));
  return [...new Set(names.filter((name) => name.endsWith('.service')))].sort();
}

export function loadUnit(tree: Tree, name: string, surroundings: UnitSurroundings): ServiceUnit {
  const fragment = findFragment(tree, name);
  const texts = [fragment, ...dropIns(tree, name)];
  const parsed = texts.map(({ path, text }) => parseUnitFile(path, text));
  const settings = parsed.flatMap((file) => file.settings);
  const service = new SettingList(settings.filter(({ section }) => section === 'Service'));
  const account = accountOf(tree, service.last('User'), service.last('Group'));
  const context = { ...surroundings, unit: name, ...account };
  const files = texts.map(({ path }) => path);
  const unit = readUnit(settings, context, files);
  if (unit.commands.start.length === 0 && unit.type !== 'oneshot') {
    throw new KilnError('E_UNIT', `${fragment.path} has no ExecStart=`, {
      hint: 'a service needs one, unless it has Type=oneshot',
    });
  }
  return { ...unit, warnings: [...parsed.flatMap((file) => file.complaints), ...unit.warnings] };
}

interface UnitText {
  readonly path: string;
  readonly text: string;
}

function findFragment(tree: Tree, name: string): UnitText {
  for (const candidate of [name, templateOf(name)]) {
    if (candidate === undefined) continue;
    for (const folder of UNIT_FOLDERS) {
      const path = `${folder}/${candidate}`;
      if (isMasked(tree, path)) {
        throw new KilnError('E_UNIT', `${name} is masked: ${path} leads to /dev/null`, {
          hint: 'remove that link in the recipe of the image',
        });
      }
      const text = tree.readText(path);
      if (text !== undefined) return { path, text };
    }
  }
  const known = listUnits(tree);
  throw new KilnError('E_UNIT', `the image has no unit ${name}`, {
    hint: suggestion(name, known, `it has: ${known.slice(0, 20).join(', ') || 'none'}`),
  });
}

/** A link to /dev/null, even if the tree has no /dev/null. */
function isMasked(tree: Tree, path: string): boolean {
  if (tree.stat(path)?.isCharacterDevice() === true) return true;
  return tree.lstat(path)?.isSymbolicLink() === true && tree.stat(path) === undefined;
}

function templateOf(name: string): string | undefined {
  const { prefix, instance, suffix } = unitNameParts(name);
  return instance === undefined || instance === '' ? undefined : `${prefix}@.${suffix}`;
}

/**
 * Sorted by name across folders: of the type, of each prefix of a name with dashes, of the template, of the
 * unit. A name in an earlier folder wins.
 */
function dropIns(tree: Tree, name: string): UnitText[] {
  const { prefix, suffix } = unitNameParts(name);
  const dashes = [...prefix.matchAll(/-/g)].map(({ index }) => index);
  const owners = [
    name,
    ...[templateOf(name)].filter((template) => template !== undefined),
    ...dashes.reverse().map((dash) => `${prefix.slice(0, dash + 1)}.${suffix}`),
    suffix,
  ];
  const files = tree.configuration(
    owners.flatMap((owner) => UNIT_FOLDERS.map((folder) => `${folder}/${owner}.d`)),
  );
  if (files.length <= DROP_INS_MAX) {
    return files.map((path) => ({ path, text: tree.readText(path) ?? '' }));
  }
  throw new KilnError('E_UNIT', `${name} has more than ${DROP_INS_MAX} drop-ins`, {
    hint: 'join some of them',
  });
}

export function accountOf(tree: Tree, wanted = 'root', wantedGroup?: string) {
  const accounts = readAccounts(tree.root);
  const found = accounts.find(({ name, uid }) => name === wanted || String(uid) === wanted);
  const user = found ?? { name: wanted, uid: 0, gid: 0, home: '/root' };
  const of = wantedGroup ?? String(user.gid);
  const group = readGroups(tree.root).find(({ name, gid }) => name === of || String(gid) === of);
  return { user, group: group ?? { name: of, gid: user.gid } };
}
