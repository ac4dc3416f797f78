/**
 * What kiln does with each setting of [Unit], [Service] and [Install] (systemd.unit(5), systemd.service(5),
 * systemd.exec(5), systemd.kill(5), systemd.resource-control(5)).
 */
import type { UnitSetting } from './unit-file.ts';
import { RESOURCE_NAMES } from './values.ts';

export const PHASES = {
  condition: 'ExecCondition',
  startPre: 'ExecStartPre',
  start: 'ExecStart',
  startPost: 'ExecStartPost',
  reload: 'ExecReload',
  stop: 'ExecStop',
  stopPost: 'ExecStopPost',
} as const;
export type ExecPhase = keyof typeof PHASES;

export const KINDS = [
  ...['PathExists', 'PathIsDirectory', 'PathIsSymbolicLink'],
  ...['FileNotEmpty', 'FileIsExecutable', 'DirectoryNotEmpty'],
];

export const DIRECTORY_KINDS = [
  { key: 'RuntimeDirectory', base: '/run', variable: 'RUNTIME_DIRECTORY' },
  { key: 'StateDirectory', base: '/var/lib', variable: 'STATE_DIRECTORY' },
  { key: 'CacheDirectory', base: '/var/cache', variable: 'CACHE_DIRECTORY' },
  { key: 'LogsDirectory', base: '/var/log', variable: 'LOGS_DIRECTORY' },
  { key: 'ConfigurationDirectory', base: '/etc', variable: 'CONFIGURATION_DIRECTORY' },
] as const;

function words(text: string): ReadonlySet<string> {
  return new Set(text.split(/\s+/));
}

export const HONOURED: ReadonlySet<string> = new Set([
  ...Object.values(PHASES),
  ...KINDS.flatMap((kind) => [`Condition${kind}`, `Assert${kind}`]),
  ...DIRECTORY_KINDS.flatMap(({ key }) => [key, `${key}Mode`]),
  ...RESOURCE_NAMES.map((name) => `Limit${name}`),
  ...words(`Description After Before Requires Wants BindsTo Requisite PartOf
  StartLimitIntervalSec StartLimitInterval StartLimitBurst
  Type RemainAfterExit PIDFile NotifyAccess GuessMainPID
  Restart RestartSec SuccessExitStatus RestartPreventExitStatus RestartForceExitStatus
  TimeoutSec TimeoutStartSec TimeoutStopSec
  User Group Environment EnvironmentFile UnsetEnvironment UMask WorkingDirectory
  CapabilityBoundingSet AmbientCapabilities
  KillMode KillSignal SendSIGKILL SendSIGHUP ReloadSignal
  StandardOutput StandardError StandardInput SyslogIdentifier`),
]);

export const GIVEN =
  words(`Documentation SourcePath DefaultDependencies RequiresMountsFor WantsMountsFor Conflicts
  PropagatesReloadTo ReloadPropagatedFrom OnFailure OnSuccess JoinsNamespaceOf CollectMode
  RefuseManualStart RefuseManualStop IgnoreOnIsolate StopWhenUnneeded
  ConditionVirtualization ConditionCapability ConditionKernelCommandLine ConditionSecurity
  WantedBy RequiredBy Alias Also DefaultInstance UpheldBy
  NoNewPrivileges PrivateTmp PrivateNetwork PrivateDevices PrivateUsers PrivateIPC PrivateMounts
  PrivatePIDs ProtectClock RestrictRealtime ProtectControlGroups ProtectHostname ProtectKernelLogs
  ProtectKernelModules ProtectKernelTunables RestrictNamespaces RestrictSUIDSGID MountAPIVFS
  LockPersonality RemoveIPC KeyringMode DevicePolicy DeviceAllow ProtectHome
  RuntimeDirectoryPreserve SyslogFacility SyslogLevel SyslogLevelPrefix LogLevelMax
  TTYPath TTYReset TTYVHangup TTYVTDisallocate IgnoreSIGPIPE OOMPolicy UtmpIdentifier UtmpMode
  Delegate TasksAccounting CPUAccounting MemoryAccounting IOAccounting IPAccounting
  BlockIOAccounting Slice OOMScoreAdjust`);

export const UNSUPPORTED =
  words(`ExitType PassEnvironment FinalKillSignal RestartKillSignal BusName Sockets USBFunctionDescriptors FileDescriptorStoreMax FileDescriptorStorePreserve
  WatchdogSec WatchdogSignal RuntimeMaxSec RuntimeRandomizedExtraSec RestartMode RestartSteps
  RestartMaxDelaySec StartLimitAction FailureAction SuccessAction RebootArgument JobTimeoutSec
  TimeoutAbortSec TimeoutStartFailureMode TimeoutStopFailureMode OnFailureJobMode OpenFile
  RootDirectory RootImage RootDirectoryStartOnly PermissionsStartOnly NonBlocking
  SupplementaryGroups DynamicUser PAMName SetLoginEnvironment SecureBits
  ProtectSystem ProtectProc ProcSubset ReadWritePaths ReadOnlyPaths InaccessiblePaths ExecPaths
  NoExecPaths ReadWriteDirectories ReadOnlyDirectories InaccessibleDirectories TemporaryFileSystem
  BindPaths BindReadOnlyPaths MountFlags MemoryDenyWriteExecute
  RestrictAddressFamilies RestrictFileSystems SystemCallFilter SystemCallArchitectures
  SystemCallErrorNumber SystemCallLog Personality SELinuxContext AppArmorProfile SmackProcessLabel
  NetworkNamespacePath IPCNamespacePath LoadCredential LoadCredentialEncrypted SetCredential
  ImportCredential Nice IOSchedulingClass IOSchedulingPriority CPUSchedulingPolicy
  CPUSchedulingPriority CPUSchedulingResetOnFork CPUAffinity NUMAPolicy NUMAMask TimerSlackNSec
  IPAddressDeny IPAddressAllow SocketBindAllow SocketBindDeny RestrictNetworkInterfaces
  MemoryMin MemoryLow MemoryHigh MemoryMax MemorySwapMax MemoryLimit CPUQuota CPUWeight CPUShares
  AllowedCPUs TasksMax IOWeight IODeviceWeight IOReadBandwidthMax IOWriteBandwidthMax BlockIOWeight
  LogRateLimitIntervalSec LogRateLimitBurst LogNamespace LogExtraFields StandardInputText
  StandardInputData CoredumpFilter MemoryKSM ConditionHost ConditionArchitecture
  ConditionKernelVersion ConditionUser ConditionGroup ConditionEnvironment ConditionPathExistsGlob
  ConditionPathIsMountPoint ConditionPathIsReadWrite ConditionNeedsUpdate ConditionFirstBoot
  ConditionACPower ConditionMemory ConditionCPUs ConditionControlGroupController
  ConditionCredential ConditionFirmware ConditionOSRelease
  AssertPathExistsGlob AssertPathIsMountPoint AssertPathIsReadWrite AssertKernelVersion
  AssertVirtualization AssertArchitecture AssertSecurity AssertCapability AssertUser AssertGroup`);

/** The sections of a service unit (systemd.service(5)); sections with X- are free for anybody. */
const SECTIONS = ['Unit', 'Service', 'Install'];

export function undoneSettings(settings: readonly UnitSetting[]): string[] {
  const warnings: string[] = [];
  const unsupported = new Set<string>();
  for (const { section, key, value, file, line } of settings) {
    if (section.startsWith('X-') || key.startsWith('X-')) continue;
    if (!SECTIONS.includes(section)) {
      warnings.push(`${file}:${line}: section [${section}] means nothing for a service`);
    } else if (UNSUPPORTED.has(key)) {
      if (value !== '') unsupported.add(key);
    } else if (!HONOURED.has(key) && !GIVEN.has(key)) {
      warnings.push(`${file}:${line}: unknown setting ${key}=`);
    }
  }
  if (unsupported.size > 0) warnings.push(`not done: ${[...unsupported].join('=, ')}=`);
  return warnings;
}
