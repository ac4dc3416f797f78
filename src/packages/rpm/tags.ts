/** Numbers of header tags, from rpm's include/rpm/rpmtag.h (4.20 and 6.0). */

export const SigTag = {
  region: 62,
  dsaHeader: 267,
  rsaHeader: 268,
  sha1Header: 269,
  longArchiveSize: 271,
  sha256Header: 273,
  openpgp: 278,
  sha3Header: 279,
  pgp: 1002,
  md5: 1004,
  gpg: 1005,
  payloadSize: 1007,
} as const;

export const Tag = {
  region: 63,
  name: 1000,
  version: 1001,
  release: 1002,
  epoch: 1003,
  summary: 1004,
  description: 1005,
  buildTime: 1006,
  buildHost: 1007,
  size: 1009,
  vendor: 1011,
  license: 1014,
  packager: 1015,
  group: 1016,
  url: 1020,
  os: 1021,
  arch: 1022,
  oldFileNames: 1027,
  fileSizes: 1028,
  fileModes: 1030,
  fileRdevs: 1033,
  fileMtimes: 1034,
  fileDigests: 1035,
  fileLinkTos: 1036,
  fileFlags: 1037,
  fileUserName: 1039,
  fileGroupName: 1040,
  sourceRpm: 1044,
  archiveSize: 1046,
  noSource: 1051,
  noPatch: 1052,
  fileDevices: 1095,
  fileInodes: 1096,
  sourcePackage: 1106,
  changelogTime: 1080,
  changelogName: 1081,
  changelogText: 1082,
  dirIndexes: 1116,
  baseNames: 1117,
  dirNames: 1118,
  payloadFormat: 1124,
  payloadCompressor: 1125,
  longFileSizes: 5008,
  longSize: 5009,
  fileCaps: 5010,
  fileDigestAlgo: 5011,
  payloadSha256: 5092,
  payloadDigestAlgo: 5093,
  payloadSha256Alt: 5097,
  payloadSizeAlt: 5113,
  rpmFormat: 5114,
  payloadSha512: 5121,
  payloadSha512Alt: 5122,
  payloadSha3: 5123,
  payloadSha3Alt: 5124,
} as const;

export const dependencyTags = {
  provides: [1047, 1112, 1113],
  requires: [1049, 1048, 1050],
  conflicts: [1054, 1053, 1055],
  obsoletes: [1090, 1114, 1115],
  recommends: [5046, 5048, 5047],
  suggests: [5049, 5051, 5050],
  supplements: [5052, 5054, 5053],
  enhances: [5055, 5057, 5056],
  orderWithRequires: [5035, 5037, 5036],
} as const;

export const DEPENDENCY_KINDS = Object.keys(dependencyTags) as (keyof typeof dependencyTags)[];

export const scriptletTags = {
  pretrans: [1151, 1153, 5024],
  prein: [1023, 1085, 5020],
  postin: [1024, 1086, 5021],
  posttrans: [1152, 1154, 5025],
  preuntrans: [5103, 5105, 5107],
  preun: [1025, 1087, 5022],
  postun: [1026, 1088, 5023],
  postuntrans: [5104, 5106, 5108],
  verify: [1079, 1091, 5026],
} as const;

export type TriggerTags = Readonly<typeof triggerTags> & { readonly priorities?: number };

export const triggerTags = {
  scripts: 1065,
  names: 1066,
  versions: 1067,
  flags: 1068,
  index: 1069,
  programs: 1092,
  scriptFlags: 5027,
};

export const fileTriggerTags: TriggerTags = {
  scripts: 5066,
  programs: 5067,
  scriptFlags: 5068,
  names: 5069,
  index: 5070,
  versions: 5071,
  flags: 5072,
  priorities: 5084,
};

export const transFileTriggerTags: TriggerTags = {
  scripts: 5076,
  programs: 5077,
  scriptFlags: 5078,
  names: 5079,
  index: 5080,
  versions: 5081,
  flags: 5082,
  priorities: 5085,
};

/** Bits of fileFlags, from rpm's include/rpm/rpmfiles.h. */
export const fileFlags = {
  config: 1 << 0,
  doc: 1 << 1,
  icon: 1 << 2,
  missingok: 1 << 3,
  noreplace: 1 << 4,
  specfile: 1 << 5,
  ghost: 1 << 6,
  license: 1 << 7,
  readme: 1 << 8,
  pubkey: 1 << 11,
  artifact: 1 << 12,
} as const;
