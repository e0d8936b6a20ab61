#!/usr/bin/env bash
# Makes this machine the coordinator of a training fleet: the receiver, Caddy in front of it, the lab's certificate
# authority, and the timers for certificates and backups, as services of systemd. Run it in the clone, as root:
#
#   sudo scripts/install-trainer-receiver.sh --address 192.168.1.10
#
#   --address A        name or address under which other machines reach this one (default: its first address)
#   --also-address A   a further one, for people's browsers; may be repeated
#   --name NAME        of the lab, the first time (default: lab)
#   --check            say what is missing; change nothing but .venv, and stop
#   --uninstall        take the services away; keys, queue, models and settings stay
#   --delete-data      with --uninstall: take those away too, for ever: every host must be enrolled anew
#
# A second run changes nothing; after `git pull` it puts new units in their place and starts the services anew.
# Exit codes: 0 done; 1 refused, or this machine cannot do it; 2 wrong usage.
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/install-common.sh

user=cis490
settings=/etc/cis490
data=/var/lib/cis490
backups=/var/backups/cis490
command=/usr/local/bin/cis490-jobs
receiver=cis490-trainer-receiver.service
proxy=cis490-caddy.service
timers=(cis490-trainer-server-cert.timer cis490-trainer-backup.timer)
own_units=("$proxy" "$receiver" cis490-trainer-server-cert.service cis490-trainer-backup.service "${timers[@]}")

mode=install name='' address='' also=() delete_data=no
while [ $# -gt 0 ]; do
    case $1 in
    --check | --uninstall)
        [ "$mode" = install ] || [ "$mode" = "${1#--}" ] ||
            die 2 "--check changes nothing and --uninstall takes services away: only one of them." \
                "Type: scripts/install-trainer-receiver.sh --help"
        mode=${1#--}
        ;;
    --delete-data) delete_data=yes ;;
    --address | --also-address | --name)
        [ $# -gt 1 ] || die 2 "$1 wants a value." "Type: scripts/install-trainer-receiver.sh --help"
        case $1 in
        --address) address=$2 ;;
        --also-address) also+=(--also-address "$2") ;;
        --name) name=$2 ;;
        esac
        shift
        ;;
    --help | -h)
        sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' scripts/install-trainer-receiver.sh
        exit 0
        ;;
    *) die 2 "there is no option '${1:0:40}'." "Type: scripts/install-trainer-receiver.sh --help" ;;
    esac
    shift
done
[ $delete_data = no ] || [ "$mode" = uninstall ] || die 2 "--delete-data goes with --uninstall alone."

ca() { "$python" -m training.fleet.ca "$@" </dev/null; }

# A value of the authority's settings: name, address, ...
fleet() { "$python" -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1" <"$settings/ca/fleet.json"; }

first_address() { hostname -I 2>/dev/null | tr ' ' '\n' | grep -m 1 . || true; }

apt_install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >/dev/null 2>&1; }

require_caddy() {
    if ! command -v caddy >/dev/null; then
        [ "$mode" = install ] || return 0
        command -v apt-get >/dev/null ||
            die 1 "Caddy 2.6 or newer is missing." "Install it with this system's packages, then type the same line once more."
        apt_install caddy || { apt-get update -q >/dev/null && apt_install caddy; } ||
            die 1 "apt-get could not install caddy." "Type: apt-get update && apt-get install -y caddy"
        systemctl --quiet disable --now caddy.service # the package starts it, and port 80 is none of our business
        did "Caddy installed"
    fi
    caddy=$(command -v caddy)
}

check_machine() {
    local missing=0
    if "$python" -c 'import cryptography, starlette, uvicorn'; then ok "Python and packages: $("$python" -V)"; else
        warn "packages in $here/$venv do not load (see above); remove that folder, then type the same line once more"
        missing=1
    fi
    if command -v caddy >/dev/null; then
        ok "Caddy $(caddy version | cut -d' ' -f1)"
    else
        warn "no Caddy here: the installation fetches Debian's"
    fi
    if [ -d /run/systemd/system ]; then ok "systemd is process 1"; else
        warn "systemd is not process 1 here: no service can be installed"
        missing=1
    fi
    local port
    for port in 8446 8447 8448; do
        if ! systemctl is-active --quiet "$proxy" 2>/dev/null && (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            warn "port $port is taken by another program"
            missing=1
        fi
    done
    exit $missing
}

make_authority() {
    local before after
    before=$(find "$settings/ca" -type f -exec cksum {} + 2>/dev/null | sort || true)
    if [ -e "$settings/ca/fleet.json" ] && [ -z "$address$name" ] && [ ${#also[@]} -eq 0 ]; then
        ok "the authority in $settings/ca stays as it is"
    else
        if [ -z "$address" ] && [ -e "$settings/ca/fleet.json" ]; then
            address=$(fleet address)
        elif [ -z "$address" ]; then
            address=$(first_address)
            [ -n "$address" ] || die 1 "this machine's own address could not be found out." \
                "Say it: sudo scripts/install-trainer-receiver.sh --address NAME_OR_ADDRESS"
            warn "other machines will be told to come to $address; --address says another one"
        fi
        if [ -z "$name" ] && [ -e "$settings/ca/fleet.json" ]; then name=$(fleet name); fi
        ca init --dir "$settings/ca" --name "${name:-lab}" --address "$address" ${also[@]+"${also[@]}"} || exit 1
    fi
    after=$(find "$settings/ca" -type f -exec cksum {} + | sort)
    if [ "$before" != "$after" ]; then did "certificate authority in $settings/ca"; fi
}

# Written by the process that makes it: the secret is in no argument and no variable.
make_secret() {
    "$python" - "$1" <<'END'
import os, secrets, sys
with os.fdopen(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
    file.write(secrets.token_urlsafe(32) + "\n")
END
}

make_settings() {
    install -d -m 0750 -o root -g "$user" "$settings" "$settings/caddy"
    install -d -m 0700 "$backups"
    if [ ! -e "$settings/training_manifest.toml" ]; then
        install -m 0640 -o root -g "$user" etc/training_manifest.toml.example "$settings/training_manifest.toml"
        did "$settings/training_manifest.toml made of the example: name your hosts and jobs in it"
    fi
    local secret
    for secret in operator-token backup-passphrase; do
        if [ ! -s "$settings/$secret" ]; then
            make_secret "$settings/$secret"
            did "$settings/$secret made"
        fi
    done
}

make_proxy_files() {
    local before file
    before=$(cksum "$settings"/caddy/* 2>/dev/null || true)
    ca server --dir "$settings/ca" --out "$settings/caddy" --if-due ${also[@]+"${also[@]}"} || exit 1
    # shellcheck disable=SC2016  # Caddy puts the folder in, not the shell
    "$python" -m training.fleet.caddyfile --ca-dir "$settings/ca" --caddy "$caddy" --tls-dir '{$CREDENTIALS_DIRECTORY}' \
        --out "$settings/caddy/Caddyfile" </dev/null || exit 1
    chgrp "$user" "$settings/caddy/Caddyfile"
    chmod 0640 "$settings/caddy/Caddyfile"
    if [ "$before" != "$(cksum "$settings"/caddy/*)" ]; then did "the proxy's certificate and Caddyfile in $settings/caddy"; fi
    proxy_again=
    for file in "$settings"/caddy/* "$units/$proxy"; do # also of an earlier run that did not come to its end
        if [ "$file" -nt /run/cis490-caddy ]; then proxy_again=restart; fi
    done
}

make_operator() {
    local before
    before=$(cksum "$settings/operator/identity.pem" 2>/dev/null || true)
    ca operator admin --dir "$settings/ca" --out "$settings/operator" >/dev/null || exit 1
    if [ "$before" != "$(cksum "$settings/operator/identity.pem")" ]; then did "credentials of the operator admin in $settings/operator"; fi
    # its first line is the token; during a rotation the former one stands on the second
    if ! head -n 1 "$settings/operator-token" | cmp -s - "$settings/operator/operator-token"; then
        (umask 077; head -n 1 "$settings/operator-token" >"$settings/operator/operator-token")
    fi
    local program=$here/$venv/bin/cis490-jobs
    # a link of a clone that lay elsewhere gives way; a program of that name does not
    if [ ! -e "$command" ] || { [ -L "$command" ] && [ "$(readlink "$command")" != "$program" ]; }; then
        ln -sfn "$program" "$command"
        did "$command leads to this clone"
    fi
}

install_receiver() {
    require_linux "The receiver runs on Linux alone."
    if [ "$mode" = install ]; then
        require_place
        require_root "sudo scripts/install-trainer-receiver.sh"
        require_systemd "Try it without services: make demo"
        require_own_code
    fi
    require_venv run
    [ "$mode" = install ] || check_machine
    require_caddy
    require_user "$user"
    make_settings
    make_authority
    make_proxy_files
    make_operator
    install_units "${own_units[@]}"
    enable_unit "$receiver" "$(anew /run/cis490 "$units/$receiver" "$settings"/operator-token "$settings"/ca/{fleet.json,*.pem})"
    enable_unit "$proxy" "$proxy_again"
    local timer
    for timer in "${timers[@]}"; do enable_unit "$timer"; done
    "$here/$venv/bin/cis490-jobs" --credentials "$settings/operator" workers </dev/null >/dev/null ||
        die 1 "the services run, and the receiver does not answer through its proxy (see above)." "Look: journalctl -u $receiver -u $proxy"
    ok "the receiver answers through its proxy"
    if [ -z "$(ls -A "$backups")" ]; then
        systemctl start cis490-trainer-backup.service || die 1 "the first backup failed." "Look: journalctl -u cis490-trainer-backup"
        did "first backup in $backups"
    fi
    if [ ${#changed[@]} -eq 0 ]; then
        echo "nothing to do: the receiver is installed and answers."
    else
        echo "done: the receiver runs, now and after every boot."
    fi
    cat <<END
  next, as root: name your hosts in $settings/training_manifest.toml, then: cis490-jobs reload
                 and for each of them: cis490-jobs hosts add NAME
  keep a copy elsewhere of $settings/backup-passphrase: without it the backups in $backups are of no use
END
}

uninstall_receiver() {
    require_root "sudo scripts/install-trainer-receiver.sh --uninstall"
    require_systemd "Nothing was changed."
    remove_units "${own_units[@]}"
    rm -f /var/lib/systemd/timers/stamp-cis490-trainer-{server-cert,backup}.timer
    if [ "$(readlink "$command" 2>/dev/null)" = "$here/.venv/bin/cis490-jobs" ]; then
        rm -f "$command"
        did "$command removed"
    fi
    if [ $delete_data = yes ]; then
        local each
        for each in "$settings"/{ca,caddy,operator,operator-token,backup-passphrase,training_manifest.toml,trainer-receiver.env} \
            "$data" "$backups"; do
            [ -e "$each" ] || continue
            rm -rf "$each"
            did "$each removed"
        done
        rmdir --ignore-fail-on-non-empty "$settings" 2>/dev/null || true
        remove_user "$user"
    fi
    remove_venvs
    if [ ${#changed[@]} -eq 0 ]; then
        echo "nothing to do: no receiver is installed here."
    else
        echo "done: no receiver runs here any more. The clone, $here, is still there."
    fi
    if [ -d "$data" ] || [ -d "$settings" ]; then
        echo "  keys and settings are still in $settings, queue and models in $data, backups in $backups;"
        echo "  to take them away for ever: sudo scripts/install-trainer-receiver.sh --uninstall --delete-data"
    fi
}

case $mode in
uninstall) uninstall_receiver ;;
*) install_receiver ;;
esac
