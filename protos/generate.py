"""Regenerates smdaemon/proto from protos/: one descriptor set, and one type stub a package.

There is no generated Python code: the descriptor set is loaded into a private pool at run time (see smdaemon/proto/pool.py),
so no protobuf compiler version is tied to the runtime. The stubs are what `protoc --pyi_out` writes, joined for each package.

    python protos/generate.py           write
    python protos/generate.py --check   exit 1 when what is committed differs
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

PROTOS = Path(__file__).resolve().parent
TARGET = PROTOS.parent / "smdaemon" / "proto"
PACKAGES = {"tensorflow": "tensorflow.pyi", "tensorflow_serving": "serving.pyi", "smdaemon": "v1.pyi"}
STUB_HEAD = '# Written by protos/generate.py; do not edit.\n# mypy: disable-error-code="type-arg"\n# ruff: noqa\n'


def compile_protos(out: Path) -> None:
    """Run protoc over every .proto file: descriptor set and stubs into `out`."""
    files = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", "--include_imports"]
    command += [f"--descriptor_set_out={out / 'descriptors.binpb'}", f"--pyi_out={out}", *files]
    subprocess.run(command, check=True)


def join_stubs(folder: Path) -> str:
    """One stub from all stubs below `folder`: imports once, references between the files made local."""
    imports: set[str] = set()
    bodies: list[str] = []
    for path in sorted(folder.rglob("*.pyi")):
        body: list[str] = []
        text = path.read_text()
        # messages of another package of ours
        for module in re.findall(
            r"^from (?!google|typing|collections)[a-z.]+ import \w+ as (\w+)$", text, re.MULTILINE
        ):
            if not list(folder.rglob(f"{module.removeprefix('_')}.pyi")):
                names = sorted(set(re.findall(rf"\b{module}\.(\w+)", text)))
                imports.add(f"from smdaemon.proto.tensorflow import {', '.join(names)}")
        for line in text.splitlines():
            if re.match(r"(from (google|typing|collections)|import )", line):
                imports.add(line)
            elif not line.startswith(("from ", "DESCRIPTOR")):
                body.append(
                    re.sub(r"\b_(?!timestamp|any|wrappers|struct_pb2\.google)[a-z0-9_]+_pb2(?:_\d)?\.", "", line)
                )
        bodies.append("\n".join(body).strip())
    return STUB_HEAD + "\n".join(sorted(imports)) + "\n\n" + "\n\n".join(bodies) + "\n"


def main() -> int:
    """Write the files, or with --check compare them with what is committed."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        compile_protos(out)
        made = {"descriptors.binpb": (out / "descriptors.binpb").read_bytes()}
        for package, stub in PACKAGES.items():
            made[stub] = join_stubs(out / package).encode()
    if "--check" not in sys.argv:
        for name, content in made.items():
            (TARGET / name).write_bytes(content)
        return 0
    stale = [name for name, content in made.items() if (TARGET / name).read_bytes() != content]
    if stale:
        print(f"smdaemon/proto is stale ({', '.join(stale)}); run: make protos", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
