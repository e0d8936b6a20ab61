# shellcheck shell=bash
# What both installers need: their voice, what has to be true of a machine, and putting a unit in its place.
# Sourced by install-training-worker.sh and install-trainer-receiver.sh in the clone's folder.

export PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 # nothing is left in the clone but .venv, and nothing in root's home
umask 022 # the services' users read what root installs; what nobody else may read gets its mode by name
units=/etc/systemd/system
here=$PWD
changed=() # what this run did; empty: there was nothing to do

ok() { printf '  [ok]   %s\n' "$*"; }
warn() { printf '  [warn] %s\n' "$*"; }
did() {
    changed+=("$*")
    ok "$*"
}

# die CODE SENTENCE WHAT_TO_TYPE...
die() {
    local code=$1
    printf '\ninstall stopped: %s\n' "$2" >&2
    shift 2
    if [ $# -gt 0 ]; then printf '  %s\n' "$@" >&2; fi
    exit "$code"
}

require_linux() {
    [ "$(uname -s)" = Linux ] || die 1 "this is $(uname -s), and the script is for Linux." "$1"
}

# A service may not look into people's home folders, and the path becomes a part of unit files.
require_place() {
    local again="cd /opt/cis490 and type the same line once more"
    case $here/ in
    /home/* | "/root"/*)
        die 1 "this clone lies in $here, in a home folder, where a service may not look." \
            "Type: sudo cp -r $here /opt/cis490" "Then: $again"
        ;;
    /tmp/* | /var/tmp/* | /run/*)
        die 1 "this clone lies in $here, which is not kept, or is another folder for a service." \
            "Type: sudo cp -r $here /opt/cis490" "Then: $again"
        ;;
    esac
    if [[ ! $here =~ ^/[A-Za-z0-9._/-]+$ ]]; then
        die 1 "the path of this clone, $here, has characters that a unit file cannot hold; expected A-Z a-z 0-9 . _ - /" \
            "Type: sudo cp -r '$here' /opt/cis490" "Then: $again"
    fi
}

# Root's timers and this script run the code of the clone: who can change it is root.
require_own_code() {
    local open
    open=$(find "$here" -xdev -not -type l -perm -0002 -print -quit)
    [ -z "$open" ] || die 1 "every user of this machine may change $open, and root runs code from this clone." \
        "Type: sudo chmod -R o-w $here" "Then type the same line once more."
}

# Also: one installer at a time. The lock ends with this process.
require_root() {
    [ "$(id -u)" -eq 0 ] || die 1 "a service is installed by root, and this is $(id -un)." "Type: $1"
    exec 9>/run/cis490-install.lock
    flock --nonblock 9 ||
        die 1 "another installer is at work on this machine." "Wait until it has ended, then type the same line once more."
}

require_systemd() {
    [ -d /run/systemd/system ] && return
    die 1 "systemd is not process 1 here (found $(cat /proc/1/comm 2>/dev/null || echo nothing))." "$@"
}

# The environment with the locked packages; $1: run, or full with torch.
require_venv() {
    venv=.venv
    [ "$1" != full ] || venv=.venv-full
    local marks=$venv/made-by-installer before
    before=$(cat "$venv/cis490-setup" 2>/dev/null || true)
    local is_new=no
    [ -e "$venv/cis490-setup" ] || is_new=yes # not there, or half made
    local code=0
    scripts/setup.sh "$1" </dev/null || code=1
    if [ "$is_new" = yes ] && [ -d "$venv" ]; then : >"$marks"; fi # a half-made one too is taken away again
    [ $code -eq 0 ] || exit 1
    python=$here/$venv/bin/python
    if [ "$before" != "$(cat "$venv/cis490-setup")" ]; then did "packages installed in $here/$venv"; fi
}

# A system user of this name, with a group of its own.
require_user() {
    if ! getent passwd "$1" >/dev/null; then
        useradd --system --user-group --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin "$1"
        did "user $1 added"
    fi
    runuser -u "$1" -- "$python" -c 'import cryptography, training.fleet.worker' ||
        die 1 "the user $1 cannot run the code in $here (see above), so no service could start from there." \
            "Type: sudo chmod -R a+rX $here; every folder above it needs a+x as well"
}

# Run a module of the clone as another user, in an empty environment. Standard input is passed on.
as_user() {
    local user=$1
    shift
    runuser -u "$user" -- env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 "$python" -m "$@"
}

# Unit $1 of etc/ as this clone and its environment need it.
unit_text() {
    sed -e "s#/opt/cis490#$here#g" -e "s#/\.venv/#/$venv/#g" -e "s#/usr/bin/caddy#${caddy:-/usr/bin/caddy}#g" "etc/$1"
}

# Puts units in their place. Sets units_changed to those that differ from what was there.
install_units() {
    units_changed=()
    local unit text
    for unit in "$@"; do
        text=$(unit_text "$unit") || die 1 "etc/$unit cannot be read." "Type: git -C $here status"
        if [ -f "$units/$unit" ] && [ "$text" = "$(cat "$units/$unit")" ]; then continue; fi
        # in one step, and whole: on a full disk the old one stays
        if ! printf '%s\n' "$text" >"$units/$unit.new" || ! mv -f "$units/$unit.new" "$units/$unit"; then
            rm -f "$units/$unit.new"
            die 1 "$units/$unit could not be written." "Look: df -h $units"
        fi
        units_changed+=("$unit")
        did "$units/$unit written"
    done
    if [ ${#units_changed[@]} -gt 0 ]; then systemctl daemon-reload; fi
}

has_changed() {
    local unit
    for unit in ${units_changed[@]+"${units_changed[@]}"}; do [ "$unit" != "$1" ] || return 0; done
    return 1
}

# "restart" for a service that has to read anew what this run changed, or what an earlier one that did not come to its end.
# $1: its folder in /run, which is as old as the service; $2...: files that it reads at its start, besides code and packages.
anew() {
    local folder=$1 file
    shift
    if [ ${#changed[@]} -gt 0 ]; then echo restart; fi
    for file in "$here/.git/logs/HEAD" "$here/$venv/cis490-setup" "$@"; do
        if [ "$file" -nt "$folder" ]; then echo restart; fi
    done
}

# Start a service or timer now and at every boot; start it anew when its unit has changed, or $2 says so.
enable_unit() {
    local unit=$1 verb=
    if ! systemctl is-active --quiet "$unit"; then
        verb=start
    elif has_changed "$unit" || [ -n "${2:-}" ]; then
        verb=restart
    fi
    if ! systemctl is-enabled --quiet "$unit"; then
        systemctl --quiet enable "$unit"
        did "$unit starts at every boot"
    fi
    [ -n "$verb" ] || return 0
    if [ "$(systemctl show --property NeedDaemonReload --value "$unit")" = yes ]; then systemctl daemon-reload; fi
    if ! systemctl "$verb" "$unit"; then
        journalctl --no-pager --output=cat -n 8 -u "$unit" >&2 || true
        die 1 "$unit does not start (its last lines stand above)." "All of them: journalctl -u $unit"
    fi
    did "$unit ${verb}ed"
}

# Stop units, forget them and take their files away; says nothing of those that are not there.
remove_units() {
    local unit gone=no
    for unit in "$@"; do
        [ -e "$units/$unit" ] || continue
        systemctl --quiet disable --now "$unit" || true
        rm -rf "${units:?}/$unit" "$units/$unit.d"
        systemctl reset-failed "$unit" 2>/dev/null || true
        gone=yes
        did "$unit stopped and removed"
    done
    [ "$gone" = no ] || systemctl daemon-reload
}

remove_user() {
    getent passwd "$1" >/dev/null || return 0
    userdel "$1"
    getent group "$1" >/dev/null && groupdel "$1"
    did "user $1 removed"
}

# Environments that an installer made, unless another service of this clone still needs them.
remove_venvs() {
    local each
    if grep -qsF "$here/" "$units"/cis490-*.service; then return; fi
    for each in .venv .venv-full; do
        if [ -e "$each/made-by-installer" ]; then
            rm -rf "$each"
            did "$here/$each removed"
        fi
    done
}
