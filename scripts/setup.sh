#!/usr/bin/env bash
# Sets up a virtual environment with the locked packages and this checkout. Called by make; asks nothing.
#
#   scripts/setup.sh run    .venv: what the receiver, the worker and the trainer need, without torch (default)
#   scripts/setup.sh dev    .venv: that, and the tools for tests and checks
#   scripts/setup.sh full   .venv-full: run, and torch for the deep models
#   scripts/setup.sh all    .venv-full: dev, torch, the public data sets that tests and benchmarks read, and what drives
#                           Chromium in the tests of the pages (Chromium itself is the system's)
#   scripts/setup.sh bench  .venv-bench: the programs that benchmarks/tsc.py compares with
#   scripts/setup.sh sbom   .venv-sbom: what lists the packages that users install (make sbom)
#
# A second run with nothing changed does nothing. PYTHON=/path/to/python3 chooses the interpreter.
# TORCH='torch==2.13.0' chooses torch (default: torch>=2.6, the newest that the package index offers); it is the
# one package that is not locked, for the right build depends on the host's GPU. pip's own settings hold for all.
# Ends with 0, or with 1 and a message that names the line to type next.
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."

level=${1:-run}
torch=${TORCH:-torch>=2.6}
step=packages # what is being installed, for the message when that fails

# includes: the level that holds everything of this one, at the same versions, in the same environment.
case $level in
run) venv=.venv locked=run.txt includes=dev ;;
dev) venv=.venv locked=dev.txt includes=dev ;;
full) venv=.venv-full locked=run.txt includes=all ;;
all) venv=.venv-full locked=dev.txt includes=all ;;
bench) venv=.venv-bench locked=bench.txt includes=bench ;;
sbom) venv=.venv-sbom locked=sbom.txt includes=sbom ;;
*)
    printf "set-up stopped: '%s' is no set; expected run, dev, full, all, bench or sbom.\n  Type: scripts/setup.sh dev\n" "$level" >&2
    exit 1
    ;;
esac
stamp=$venv/cis490-setup
log=$venv/setup.log

has_torch() { [ "$venv" = .venv-full ]; }

say() { printf '==> %s\n' "$*"; }

die() {
    printf '\nset-up stopped: %s\n' "$1" >&2
    shift
    if [ $# -gt 0 ]; then printf '  %s\n' "$@" >&2; fi
    exit 1
}

# The checkout's path is part of it: a virtual environment does not survive being moved.
fingerprint() {
    { "$venv/bin/python" -VV && pwd && cat requirements/*.txt pyproject.toml scripts/setup.sh &&
        { ! has_torch || echo "$torch"; }; } 2>/dev/null | cksum
}

up_to_date() {
    [ -f "$stamp" ] && [ -x "$venv/bin/python" ] || return 1
    local now
    now=$(fingerprint) || return 1
    grep -qxF "$includes $now" "$stamp" || grep -qxF "$level $now" "$stamp"
}

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    local name
    for name in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python3.14; do
        # A name may be there and still not run (version managers leave such stubs), so each is tried.
        if is_recent "$name"; then
            command -v "$name"
            return
        fi
    done
    die "no Python 3.11 or newer (python3 is $(python3 -V 2>&1 | head -n 1 || true))." \
        "Debian 12 or newer: sudo apt-get install -y python3 python3-venv" \
        "Elsewhere: install Python, then PYTHON=/path/to/python3 make demo"
}

# Names of the system packages that $1 (a Python) lacks, in Debian's spelling.
missing_system_packages() {
    "$1" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
        "$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'
    if [ "$(uname -s)" = Linux ]; then # LightGBM's wheel leaves OpenMP to the system
        "$1" -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' >/dev/null 2>&1 || echo libgomp1
    fi
}

apt_install() {
    say "installing system packages (as root): $*"
    export DEBIAN_FRONTEND=noninteractive
    # The package lists may be missing or too old; fetch them only when that shows.
    apt-get install -y -q --no-install-recommends "$@" >/dev/null 2>&1 ||
        { apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends "$@" >/dev/null; }
}

require_system_packages() {
    local python=$1 missing
    missing=$(missing_system_packages "$python" | tr '\n' ' ')
    missing=${missing% }
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        # shellcheck disable=SC2086  # a list of words on purpose
        apt_install $missing || die "apt-get could not install: $missing" "Type: apt-get update && apt-get install -y $missing"
        missing=$(missing_system_packages "$python" | tr '\n' ' ')
        [ -z "$missing" ] || die "$python still lacks ${missing% } after its installation." \
            "It may not be Debian's Python. Try: PYTHON=/usr/bin/python3 make demo"
        return 0
    fi
    die "missing system packages: $missing" \
        "Debian, Ubuntu, Raspberry Pi OS: sudo apt-get install -y $missing" \
        "Fedora: sudo dnf install -y python3 libgomp" \
        "Then run the same command again."
}

# The tests of the pages drive the system's browser. Without one they are skipped, and say so.
find_browser() {
    local name
    for name in chromium chromium-browser google-chrome; do
        if command -v "$name" >/dev/null; then return 0; fi
    done
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null && apt_install chromium; then return 0; fi
    say "no Chromium on this machine: the tests of the pages will be skipped. Debian: sudo apt-get install -y chromium"
}

# The tests of access run Debian's Caddy too, beside the one of the locked packages. Its package starts a web server where
# systemd runs, so that there nobody's machine gets it unasked.
find_caddy() {
    if [ -x /usr/bin/caddy ] || [ "$(uname -s)" != Linux ]; then return 0; fi
    if [ "$(id -u)" -eq 0 ] && [ ! -d /run/systemd/system ] && command -v apt-get >/dev/null && apt_install caddy; then return 0; fi
    say "no Caddy of the system's: the tests of access use the locked one alone. Debian: sudo apt-get install -y caddy"
}

make_venv() {
    local python=$1
    if [ -e "$venv" ] && [ ! -f "$venv/pyvenv.cfg" ]; then
        die "$PWD/$venv exists and is no virtual environment; it is left alone." "Move it away, then run the same command again."
    fi
    rm -rf "$venv"
    say "creating $venv with $("$python" -V) ($python)"
    "$python" -m venv "$venv" || die "$python -m venv $venv failed (see above)." "Is this folder writable, and the disk not full?"
}

# pip's own lines, shortened: what is fetched, how big, and when the unpacking starts.
show_progress() {
    awk '/^ *Downloading /       { split($2, part, "-"); print "    fetching " part[1], part[2], $3, $4; fflush() }
         /^Installing collected packages: .*,/ { print "    unpacking"; fflush() }'
}

explain_pip_failure() {
    local more=() # what else has to be fetched for a machine without a network
    if [ "$locked" = dev.txt ]; then more+=("  pip download --require-hashes --no-deps -d wheels -r requirements/source.txt"); fi
    if has_torch; then
        more+=("  pip download --require-hashes -d wheels -r requirements/torch.txt" "  pip download -d wheels '$torch'")
    fi
    if [ "$level" = all ]; then more+=("  pip download --require-hashes --no-deps -d wheels -r requirements/public-data.txt" \
        "  pip download --require-hashes -d wheels -r requirements/browser.txt"); fi
    if grep -qE 'NewConnectionError|Temporary failure in name|Network is unreachable|ConnectTimeout|ReadTimeout|ProxyError|Connection refused' "$log"; then
        die "the package index could not be reached: no network? (details: $log)" \
            "Connect this machine, then run the same command again." \
            "To do without: where there is a network, with the same system and Python, type" \
            "  pip download --require-hashes -d wheels -r requirements/$locked" \
            ${more[@]+"${more[@]}"} \
            "bring the folder here, then: PIP_NO_INDEX=1 PIP_FIND_LINKS=wheels scripts/setup.sh $level"
    fi
    printf '\nLast lines of %s:\n' "$log" >&2
    tail -n 12 "$log" | cut -c1-300 >&2
    if grep -q 'DO NOT MATCH THE HASHES' "$log"; then
        die "a fetched package is not the one that was locked: a broken download or a changed package." \
            "Type: $venv/bin/python -m pip cache purge; then run the same command again."
    fi
    if [ "$step" = torch ] && grep -qE 'No matching distribution|Could not find a version' "$log"; then
        die "the package index has no build of '$torch' for $("$venv/bin/python" -V) on $(uname -sm)." \
            "Another version: TORCH='torch==2.13.0' scripts/setup.sh $level" \
            "Without torch these still work: make demo, make test, and the models gbt, mlp and rocket."
    fi
    if grep -q 'No space left on device' "$log"; then
        die "the disk is full: $PWD has $(df -Ph . | awk 'NR == 2 {print $4}') left." \
            "Make room ($venv may be deleted), then run the same command again."
    fi
    if grep -qE 'No matching distribution|Could not find a version' "$log"; then
        die "a locked package has no ready-made build for $("$venv/bin/python" -V) on $(uname -sm)." \
            "Known to work: CPython 3.11 to 3.14 on 64-bit Linux (x86-64, arm64). Try: PYTHON=/usr/bin/python3.11 make demo"
    fi
    die "pip failed (see above; everything is in $log)."
}

pip_install() {
    "$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off --no-compile --retries 3 "$@" 2>&1 |
        tee -a "$log" | show_progress || explain_pip_failure
}

# A build for another processor or driver installs without a word and fails when it is loaded.
check_torch() {
    local found
    found=$("$venv/bin/python" -c 'import torch; cuda = torch.cuda.is_available()
print("torch", torch.__version__, "with CUDA on " + torch.cuda.get_device_name(0) if cuda else "(no CUDA here)")' 2>>"$log") ||
        { tail -n 3 "$log" | cut -c1-300 >&2 &&
            die "torch was installed and does not load on this machine (see above; details: $log)." \
                "Try another build: TORCH='torch==2.13.0' scripts/setup.sh $level"; }
    say "$found"
}

if [ "$level" = all ]; then find_browser; find_caddy; fi
if up_to_date; then exit 0; fi

# A half-made or moved environment, or one whose Python is gone, is made anew.
usable() {
    is_recent "$venv/bin/python" && "$venv/bin/python" -c 'import pip' 2>/dev/null &&
        grep -qF "$PWD/$venv" "$venv/pyvenv.cfg"
}

if ! usable; then
    python=$(find_python)
    require_system_packages "$python"
    make_venv "$python"
else
    require_system_packages "$venv/bin/python"
fi

rm -f "$stamp"
: >"$log"
say "installing $(grep -c '^[a-z0-9].*==' "requirements/$locked") locked packages (requirements/$locked) into $venv"
# Wheels only: what would need a compiler fails at once, and says so.
pip_install --require-hashes --only-binary :all: -r "requirements/$locked"
# Of the tests' tools one needs a package of pure Python that is published as source only; no compiler is involved.
if [ "$locked" = dev.txt ]; then
    pip_install --require-hashes --no-deps --no-build-isolation -r requirements/source.txt
fi
if has_torch; then
    step=torch
    say "installing $torch (200 MB for a build for the CPU; gigabytes where the index offers one for CUDA)"
    # What every build of torch imports is locked and goes first, so that pip adds torch and its GPU libraries alone.
    pip_install --require-hashes --only-binary :all: -r requirements/torch.txt
    pip_install --only-binary :all: "$torch"
    check_torch
    step=packages
fi
if [ "$level" = all ]; then
    say "installing the public data sets of aeon's wheel, without the packages that aeon itself would need"
    pip_install --require-hashes --only-binary :all: --no-deps -r requirements/public-data.txt
    pip_install --require-hashes --only-binary :all: -r requirements/browser.txt
fi
if [ "$level" != bench ] && [ "$level" != sbom ]; then
    say "installing this checkout (editable)"
    pip_install --no-deps --no-build-isolation --no-index --editable .
fi
printf '%s %s\n' "$level" "$(fingerprint)" >"$stamp"
say "ready: $venv"
