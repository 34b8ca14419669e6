"""No instruction set's object may define a symbol that another could be linked to.

An inline function compiled for AVX-512 and left visible could replace the baseline's
copy of it, and crash on a machine without AVX-512. So every symbol that an object
defines is local, except its table of kernels.

    python .ci/check_isa_objects.py BUILD_DIRECTORY
"""

import subprocess
import sys
from pathlib import Path

TABLES = "::kernel_set", "::bf16_kernels", "::int8_kernels"


def main(build: Path) -> int:
    objects = sorted(build.glob("**/core/simd/*.cpp.o"))
    if not objects:
        print(f"no core/simd/*.cpp.o under {build}")
        return 1
    status = 0
    for path in objects:
        listing = subprocess.run(
            ["nm", "--demangle", path], check=True, capture_output=True, text=True
        ).stdout
        for line in listing.splitlines():
            kind, name = line[17:18], line[19:]
            allowed = kind.islower() and kind not in "uvw"
            sanitizer = name.startswith("__odr_asan.")
            if kind == "U" or allowed or sanitizer or name.endswith(TABLES):
                continue
            print(f"{path}: visible symbol {kind} {name}")
            status = 1
    print(f"{len(objects)} objects: {'leaks' if status else 'no visible inline code'}")
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
