import type { RpmPackage } from '../../packages/rpm/package.ts';
import type { TreePlan } from '../tree/plan.ts';
import { sysusersLines } from './sysusers.ts';

/** Why unpacking payloads first would, or might, give another result than rpm. Empty if it gives the same. */
export function reasonsForExact(packages: readonly RpmPackage[], plan: TreePlan): string[] {
  return [...scriptReasons(packages), ...ownerReasons(packages, plan)];
}

/** The reasons in the packages' scripts. */
function scriptReasons(packages: readonly RpmPackage[]): string[] {
  const reasons: string[] = [];
  for (const { name, arch, scriptlets, triggers, fileTriggers } of packages) {
    const label = `${name}.${arch}`;
    for (const { kind, body, lua } of scriptlets) {
      // `%pretrans` must run before unpacking; the fast path cannot do that.
      if (kind === 'pretrans') reasons.push(`${label} has a %pretrans scriptlet`);
      if (kind === 'prein' && (lua || !onlyAddsAccounts(body))) {
        reasons.push(`${label} has a %pre scriptlet that does more than add users`);
      }
    }
    for (const script of [...scriptlets, ...triggers, ...fileTriggers]) {
      if (script.expand) reasons.push(`a script of ${label} needs rpm's macros (-e)`);
      if (script.queryFormat) reasons.push(`a script of ${label} is a query format (-q)`);
    }
    if (triggers.some((trigger) => trigger.kind === 'triggerprein')) {
      reasons.push(`${label} has a %triggerprein scriptlet`);
    }
  }
  return [...new Set(reasons)];
}

function ownerReasons(packages: readonly RpmPackage[], plan: TreePlan): string[] {
  const needsShell = plan.needsOwners || packages.some((added) => sysusersLines(added).length > 0);
  const tools = needsShell ? ['/bin/sh', '/usr/bin/chown', '/usr/bin/chgrp', '/usr/bin/chmod'] : [];
  return tools
    .filter((tool) => plan.find(tool) === undefined)
    .map((tool) => `owners must be set, and there is no ${tool}`);
}

/** Shell commands, one a line, whose result cannot depend on existing files. */
const HARMLESS: readonly RegExp[] = [
  /^(?:exit(?: 0)?|:|true|fi|then|else|if)$/,
  /^getent (?:passwd|group) [\w.-]+$/,
  /^id(?: -[ugn]+)* [\w.-]+$/,
  /^\[ "?\$1"? (?:-eq|-ge|-gt|-lt|-le|=|==|!=) "?\d+"? \]$/,
  // Not -m: the content of a new home depends on /etc/skel.
  /^(?:\/usr\/sbin\/)?groupadd(?: (?:-[rfogK]+|--(?:system|force|gid))(?: \d+)?)* [\w.-]+$/,
  /^(?:\/usr\/sbin\/)?useradd(?: (?:-[roMN]+|--(?:system|no-create-home|no-user-group)|(?:-[ugGdsc]|--(?:uid|gid|groups|home(?:-dir)?|shell|comment)) ?=?(?:[\w.,/-]+|"[^"$`\\]*"|'[^']*')))* [\w.-]+$/,
  /^(?:\/usr\/sbin\/)?usermod -aG [\w.,-]+ [\w.-]+$/,
];

/** Whether a %pre only adds users and groups; false if in doubt. */
function onlyAddsAccounts(body: string): boolean {
  const commands = body
    .replace(/\\\n/g, ' ')
    .replace(/(^|\s)#.*$/gm, '')
    .replace(/\s*(?:[12]?|&)>\s*\/dev\/null|\s*2>&1/g, ' ')
    .split(/\n|;|&&|\|\||(?<=^|\s)(?:if|then|else)(?=\s)|(?<=\s)!(?=\s)/)
    .map((command) => command.replace(/\s+/g, ' ').trim())
    .filter((command) => command !== '');
  return commands.every((command) => HARMLESS.some((pattern) => pattern.test(command)));
}
