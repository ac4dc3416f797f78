/**
 * A Lua program that runs a `<lua>` scriptlet as rpm does (runLuaScript in lib/rpmscript.c): `arg`
 * holds the interpreter's name and the instance counts, `rpm.next_file()` gives the files that set
 * off a file trigger. Only rpm has this Lua, with its `rpm` and `posix` libraries.
 */
export function luaProgram(
  bodyPath: string,
  counts: readonly number[],
  input: readonly string[],
): string {
  const lines = [
    `local files, at = {${input.map(luaString).join(', ')}}, 0`,
    ...(input.length > 0 ? ['rpm.next_file = function() at = at + 1; return files[at] end'] : []),
    'posix.chdir("/")',
    'posix.umask("022")',
    `local script = assert(io.open(${luaString(bodyPath)})):read("a")`,
    'local run = assert(load("local opt, arg = ...;" .. script, "@<lua>"))',
    `run({}, {${['"<lua>"', ...counts].join(', ')}})`,
  ];
  return `${lines.join('\n')}\n`;
}

/** Bytes outside printable ASCII as decimal escapes: they reach Lua unchanged. */
function luaString(text: string): string {
  const escaped = [...Buffer.from(text)].map((byte) => {
    const plain = byte >= 0x20 && byte < 0x7f && byte !== 0x22 && byte !== 0x5c;
    return plain ? String.fromCharCode(byte) : `\\${byte.toString().padStart(3, '0')}`;
  });
  return `"${escaped.join('')}"`;
}
