#!/usr/bin/env bash
# The packages, as users meet them: the wheel that is built from the source
# distribution, the pure Python build, and the message where there is no compiler.
#
#   .ci/packages.sh [PYTHON]    PYTHON has torch and the other dependencies (.venv)
#
# Each check runs in a clean environment, outside the sources. Torch and the other
# dependencies are lent by PYTHON's environment, after the package was installed alone:
# its files can only come from the wheel, and no gigabytes are fetched again.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
python=${1:-.venv/bin/python}
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")  # we change folders
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_CONSTRAINT=$root/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1
unset CELLWRIGHT_NO_NATIVE CELLWRIGHT_ISA CELLWRIGHT_THREADS PYTHONPATH

say() { printf '\n== %s\n' "$*"; }
fail() { echo "error: $*" >&2; exit 1; }

# lists TEXT PATTERN: whether a line of TEXT matches (no pipe: grep -q would break it).
lists() { grep -qE "$2" <<<"$1"; }

# clean NAME PACKAGE: a new environment with the package alone, then what it depends on.
clean() {
  "$python" -m venv "$work/$1"
  "$work/$1/bin/python" -m pip install --quiet --quiet --no-deps "$2"
  local lent site
  lent=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  site=$("$work/$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  echo "$lent" >"$site/lent.pth"  # not a site directory: no .pth in it is read
}

say "Source distribution"
"$python" -m venv "$work/tools"
"$work/tools/bin/python" -m pip install --quiet --quiet build
"$work/tools/bin/python" -m build --sdist --outdir "$work/dist" . >"$work/sdist.log" 2>&1 ||
  { tail -n 40 "$work/sdist.log"; fail "the source distribution was not built"; }
sdist=$(echo "$work"/dist/cellwright-*.tar.gz)
files=$(tar tzf "$sdist")
for wanted in core/bind/module.cpp CMakeLists.txt src/cellwright/py.typed LICENSE; do
  lists "$files" "/$wanted$" || fail "$wanted is missing in the source distribution"
done
! lists "$files" '\.so$|/\.venv/|/\.git/|/build/|/benchmarks/results/' ||
  fail "the source distribution holds files of a build, or results"

say "Wheel, built from the source distribution alone"
"$work/tools/bin/python" -m pip wheel --quiet --quiet --no-deps --wheel-dir "$work/dist" "$sdist"
wheel=$(echo "$work"/dist/cellwright-*.whl)
basename "$wheel"
files=$("$python" -m zipfile -l "$wheel")
lists "$files" 'cellwright/_core.*\.so' || fail "the wheel has no core"
! lists "$files" '\.(cpp|h|def)( |$)|^tests/' || fail "the wheel holds sources or tests"

clean native "$wheel"
cd "$work"  # nothing is imported from the sources
# What the lent packages ask of each other is not this package's business.
! lists "$("$work/native/bin/python" -m pip check)" '^cellwright ' ||
  fail "the dependencies that the wheel declares are not met"
"$work/native/bin/python" -W error "$root/.ci/smoke.py" native
"$work/native/bin/cellwright" info
"$work/native/bin/cellwright" check lstm

say "With torch and numpy alone"
"$python" -m venv "$work/core"
"$work/core/bin/python" -m pip install --quiet --quiet --no-deps "$wheel"
"$python" "$root/.ci/lend.py" "$work/core" torch numpy
! lists "$("$work/core/bin/python" -m pip check)" '^cellwright ' ||
  fail "more than torch and numpy is a dependency"
"$work/core/bin/python" -W error "$root/.ci/smoke.py" core
if "$work/core/bin/cellwright" info 2>"$work/core.log"; then
  fail "the command runs without its extra"
fi
lists "$(cat "$work/core.log")" "^error: .*pip install 'cellwright\[train\]'$" ||
  { cat "$work/core.log"; fail "the command does not say what to install"; }

say "Pure Python: CELLWRIGHT_NO_NATIVE=1 pip install ."
mkdir source && tar xzf "$sdist" -C source --strip-components 1
CELLWRIGHT_NO_NATIVE=1 clean pure ./source
"$work/pure/bin/python" -W error "$root/.ci/smoke.py" pure
"$work/pure/bin/cellwright" info
"$work/pure/bin/cellwright" check lstm

say "Without a compiler"
if CC=/nonexistent CXX=/nonexistent "$work/tools/bin/python" -m pip wheel --no-deps \
  --wheel-dir "$work/none" "$sdist" >"$work/none.log" 2>&1; then
  fail "a wheel was built without a compiler"
fi
for wanted in "needs a C\+\+20 compiler" "CELLWRIGHT_NO_NATIVE=1 pip install"; do
  grep -qE "$wanted" "$work/none.log" ||
    { tail -n 40 "$work/none.log"; fail "the message does not say: $wanted"; }
done
grep -A 4 "needs a C++20 compiler" "$work/none.log"

say "The packages are sound"
