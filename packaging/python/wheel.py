#!/usr/bin/python3
"""Makes the wheel: wheel.py FOLDER VERSION. The same files give the same bytes.

A wheel is a zip archive with metadata, so no build system is needed. Nothing is compressed: zlib's output differs
between its versions.
"""

import base64
import hashlib
import pathlib
import sys
import zipfile

TOP = pathlib.Path(__file__).resolve().parent

METADATA = """Metadata-Version: 2.4
Name: kiln
Version: {version}
Summary: commands and builds in locked-down sandboxes, by kiln's daemon
License-Expression: Apache-2.0
License-File: LICENSE
Requires-Python: >=3.11
Description-Content-Type: text/markdown
Classifier: Operating System :: POSIX :: Linux
Classifier: Typing :: Typed

"""

WHEEL = """Wheel-Version: 1.0
Generator: kiln
Root-Is-Purelib: true
Tag: py3-none-any
"""


def make(folder: pathlib.Path, version: str) -> pathlib.Path:
    info = f"kiln-{version}.dist-info"
    readme = (TOP / "README.md").read_text()
    files = {f"kiln/{path.name}": path.read_bytes() for path in sorted((TOP / "kiln").glob("*.py"))}
    files["kiln/py.typed"] = b""
    files[f"{info}/licenses/LICENSE"] = (TOP / "../../LICENSE").read_bytes()
    files[f"{info}/METADATA"] = (METADATA.format(version=version) + readme).encode()
    files[f"{info}/WHEEL"] = WHEEL.encode()
    files[f"{info}/RECORD"] = record(files, f"{info}/RECORD").encode()
    target = folder / f"kiln-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            # Of 1980, the first year that a zip archive has.
            entry = zipfile.ZipInfo(name)
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)
    return target


def record(files: dict[str, bytes], own: str) -> str:
    lines = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}\n")
    return "".join(lines) + f"{own},,\n"


if __name__ == "__main__":
    print(make(pathlib.Path(sys.argv[1]), sys.argv[2]))
