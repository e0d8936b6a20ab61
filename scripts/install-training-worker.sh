#!/usr/bin/env bash
# Makes this machine a worker of the training fleet, as a service of systemd. Run it in the clone, as root, with the line that
# `cis490-jobs hosts add NAME` prints on the receiver:
#
#   echo 'cis490-join-1....' | sudo scripts/install-training-worker.sh
#
#   --check       test this machine, and the token if there is one; change nothing but .venv, and stop
#   --torch       with torch, for the deep models (see TORCH in scripts/setup.sh)
#   --uninstall   take everything away again; refused while a finished result has not been delivered
#
# The token is read from standard input, for what stands in a command line every user of the machine can read. A second run
# changes nothing; after `git pull` it starts the service anew, without a token. Exit codes: 0 done; 1 refused, or this
# machine cannot do it; 2 wrong usage, or no token; 3 the receiver cannot be reached; 4 the receiver has not seen this host
# in time; 5 a result has not been delivered.
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/install-common.sh

user=cis490-worker
state=/var/lib/cis490-worker
credentials=$state/credentials
service=cis490-trainer-worker.service
own_units=("$service" cis490-trainer-cert-renew.service cis490-trainer-cert-renew.timer)
seen_within_s=60

mode=install level=run
for option in "$@"; do
    case $option in
    --check | --uninstall)
        [ "$mode" = install ] || [ "$mode" = "${option#--}" ] ||
            die 2 "--check changes nothing and --uninstall takes everything away: only one of them." \
                "Type: scripts/install-training-worker.sh --help"
        mode=${option#--}
        ;;
    --torch) level=full ;;
    --help | -h)
        sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' scripts/install-training-worker.sh
        exit 0
        ;;
    cis490-join-*)
        die 2 "the token was given as an argument, where every user of this machine can read it; it counts as known now." \
            "On the receiver: cis490-jobs hosts add NAME" "Then paste the line that it prints: it hands the token over on standard input."
        ;;
    *) die 2 "there is no option '${option:0:40}'; expected --check, --torch or --uninstall." "Type: scripts/install-training-worker.sh --help" ;;
    esac
done

read_token() {
    token=
    if [ ! -t 0 ]; then token=$(head -c 65536 | tr -d '\0'); fi
}

# The token goes through a pipe: printf is a part of the shell and shows up nowhere.
join() { printf '%s\n' "$token" | as_user "$user" training.fleet.join --credentials "$credentials" --state-dir "$state" "$@"; }

check() {
    printf '%s\n' "$token" | "$python" -m training.fleet.join --check --credentials "$credentials" --state-dir "$state" || exit $?
}

# As root where the user is not there (any more): what lies in the folder counts all the same.
may_leave() {
    if [ "$(stat -c %U "$state")" = "$user" ]; then
        as_user "$user" training.fleet.join --may-leave --state-dir "$state" </dev/null
    else
        "$python" -m training.fleet.join --may-leave --state-dir "$state" </dev/null
    fi
}

# With the self-test before it, which a machine that is enrolled has passed. One that is refused is left as it was found.
join_fleet() {
    local is_new=no before='' code=0
    if [ -e "$credentials/credentials.json" ]; then before=$(cksum <"$credentials/credentials.json"); else is_new=yes; fi
    require_user "$user"
    if [ ! -d "$state" ]; then
        install -d -m 0700 -o "$user" -g "$user" "$state"
        did "$state made"
    elif [ "$(stat -c %U "$state")" != "$user" ]; then # of an installation by hand, under another user
        chown -R "$user:$user" "$state"
        did "$state belongs to $user now"
    fi
    if [ "$is_new" = yes ]; then join || code=$?; else join --skip-trainer || code=$?; fi
    if [ "$code" -ne 0 ]; then
        # What it has to remember for another try, such as its key, stays; without that nothing does.
        rmdir "$credentials" 2>/dev/null || true
        if rmdir "$state" 2>/dev/null; then remove_user "$user"; fi
        exit "$code"
    fi
    if [ "$before" != "$(cksum <"$credentials/credentials.json")" ]; then changed+=("joined"); fi
}

install_worker() {
    local stop="Or start it by hand: .venv/bin/python -m training.fleet.worker --credentials DIR"
    require_linux "On Windows: scripts\\install-training-worker-windows.ps1"
    if [ "$mode" = install ]; then
        require_place
        require_root "echo 'cis490-join-1....' | sudo scripts/install-training-worker.sh"
        require_systemd "Under WSL: put systemd=true under [boot] in /etc/wsl.conf, then: wsl --shutdown" "$stop"
        require_own_code
    fi
    read_token
    if [ "$mode" = install ] && [ -z "$token" ] && [ ! -e "$credentials/credentials.json" ]; then
        die 2 "this machine is not enrolled yet, and there was no token on standard input." \
            "On the receiver: cis490-jobs hosts add NAME" "Then paste the line that it prints."
    fi
    if [ "$level" = run ] && grep -qs '/\.venv-full/' "$units/$service"; then
        level=full
        ok "with torch, as it was installed (without: --uninstall first)"
    fi
    require_venv "$level"
    if [ "$mode" = check ]; then
        check
        exit 0
    fi
    join_fleet
    install_units "${own_units[@]}"
    enable_unit "$service" "$(anew /run/cis490-worker "$units/$service")"
    enable_unit cis490-trainer-cert-renew.timer
    as_user "$user" training.fleet.join --wait-seen "$seen_within_s" --credentials "$credentials" --state-dir "$state" </dev/null || {
        local code=$?
        journalctl --no-pager --output=cat -n 8 -u "$service" >&2 || true
        die "$code" "the service runs, and the receiver has not seen it (its last lines stand above)." "Look: journalctl -u $service -f"
    }
    if [ ${#changed[@]} -eq 0 ]; then
        echo "nothing to do: this machine is a worker already, and the receiver sees it."
    else
        echo "done: this machine is a worker, now and after every boot."
    fi
    echo "  its log: journalctl -u $service -f      take it away again: sudo $here/scripts/install-training-worker.sh --uninstall"
}

uninstall_worker() {
    require_root "sudo scripts/install-training-worker.sh --uninstall"
    require_systemd "Nothing was changed."
    local python=
    for python in "$here/.venv/bin/python" "$here/.venv-full/bin/python"; do [ ! -x "$python" ] || break; done
    if [ -d "$state" ]; then
        [ -x "$python" ] || die 1 "whether a result waits in $state cannot be asked: this clone has no environment." "Type: scripts/setup.sh run"
        may_leave || exit $?
        if [ -e "$units/$service" ]; then
            systemctl stop "$service" # the job that runs is given back; a result that was just finished may stay behind
            may_leave || {
                local code=$?
                systemctl start "$service"
                exit "$code"
            }
        fi
    fi
    remove_units "${own_units[@]}"
    if [ -e "$state" ]; then
        rm -rf "$state"
        did "$state removed, with this machine's key"
    fi
    rm -f /etc/cis490/trainer-worker.env /var/lib/systemd/timers/stamp-cis490-trainer-cert-renew.timer
    rmdir --ignore-fail-on-non-empty /etc/cis490 2>/dev/null || true
    remove_user "$user"
    remove_venvs
    if [ ${#changed[@]} -eq 0 ]; then
        echo "nothing to do: no worker is installed here."
    else
        echo "done: this machine is no worker any more. The clone, $here, is still there."
        echo "  on the receiver, so that its certificate counts no more: cis490-jobs hosts revoke NAME"
    fi
}

case $mode in
uninstall) uninstall_worker ;;
*) install_worker ;;
esac
