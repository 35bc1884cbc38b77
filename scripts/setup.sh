# Sourced by scripts/demo, scripts/docs, scripts/release and scripts/test: `set_up core|test` leaves a complete .venv in the repository root.
# A stamp says what it was made from, so that a second start does not reinstall; it is taken away before anything is
# installed and written last, so that a half-finished install is made again from nothing.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"
stamp="$venv/chanattr-stamp"

fail() {
    printf '%s\n' "$*" >&2
    exit 2
}

# The first Python of at least 3.10; or the one that PYTHON=... names, and then no other.
find_python() {
    local name found="" names=(python3 python3.13 python3.12 python3.11 python3.10 python)
    [ -n "${PYTHON:-}" ] && names=("$PYTHON")
    for name in "${names[@]}"; do
        command -v "$name" >/dev/null 2>&1 || continue
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
            python="$name"
            return
        fi
        found="$found $name ($("$name" --version 2>&1 | head -n 1 || true))"
    done
    [ -n "${PYTHON:-}" ] && fail "PYTHON=$PYTHON is${found:- no command}; chanattr needs Python 3.10 or newer: name one, or unset PYTHON"
    fail "found${found:- no Python}; chanattr needs Python 3.10 or newer: install one, or name it with PYTHON=/path/to/python3"
}

check_venv_module() {
    "$python" -c 'import ensurepip, venv' 2>/dev/null && return
    fail "$python has no venv module; expected one to make $venv with; on Debian or Ubuntu: apt-get install python3-venv"
}

# What an install depends on: the requirements, the Python, and where it lies (a moved .venv does not work).
fingerprint() {
    "$python" - "$root" <<'PYTHON'
import hashlib, pathlib, sys

root = pathlib.Path(sys.argv[1])
parts = [(root / "pyproject.toml").read_bytes(), sys.version.encode(), sys.base_prefix.encode(), str(root).encode()]
print(hashlib.sha256(b"\0".join(parts)).hexdigest())
PYTHON
}

# Whether the stamp covers what is asked: an install for the tests does for the demo too.
is_complete() {
    local kind="$1" print="$2" line
    [ -x "$venv/bin/python" ] && [ -f "$stamp" ] || return 1
    read -r line <"$stamp" || return 1
    [ "$line" = "test $print" ] || [ "$line" = "$kind $print" ]
}

set_up() {
    local kind="$1" print what
    find_python
    print="$(fingerprint)"
    is_complete "$kind" "$print" && return
    check_venv_module
    if [ -f "$stamp" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        rm -f "$stamp"
    else
        "$python" -m venv --clear "$venv" || fail "$python could not make $venv; see above"
    fi
    echo "installing chanattr into $venv (once; the first time takes some minutes)"
    what="$root"
    [ "$kind" = test ] && what="$root[test]"
    # Editable, so that the code run is always the code here.
    "$venv/bin/python" -m pip install --disable-pip-version-check --quiet --upgrade "pip>=23" &&
        "$venv/bin/python" -m pip install --disable-pip-version-check --editable "$what" </dev/null ||
        fail "the install did not finish; see above; start again to make it anew"
    echo "$kind $print" >"$stamp.new"
    mv "$stamp.new" "$stamp"
}
