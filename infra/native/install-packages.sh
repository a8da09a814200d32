#!/bin/sh
# Installs what the native stack and its tests take from Debian: programs only, no service of the machine is started or left enabled.
# Does nothing, and needs no rights, where all of it is there already. `make setup` runs it.
set -eu

# Debian keeps servers where a user's PATH does not lead.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
policy=/usr/sbin/policy-rc.d
aside=$policy.atelier-setup

missing=
need() { # COMMAND PACKAGE
    command -v "$1" >/dev/null || missing="$missing $2"
}
need nginx nginx
need redis-server redis-server
need epmd erlang-base
[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || missing="$missing rabbitmq-server"
# For tests alone: the stores that a deployment may keep in PostgreSQL are tested on it.
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing="$missing postgresql"
python3 -c 'import venv, ensurepip' 2>/dev/null || missing="$missing python3-venv"

if [ -z "$missing" ]; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "setup: please install by hand:$missing" >&2
    exit 1
fi

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Packages ask this file whether they may start their services (101: they may not). One that forbids it already is left
# as it is; one that allows it is held aside for the length of the installation.
restore() {
    trap - EXIT INT TERM
    if [ -e "$aside" ]; then
        as_root mv "$aside" "$policy"
    elif [ -n "${made:-}" ]; then
        as_root rm -f "$policy"
    fi
}
forbids() {
    "$policy" nginx start >/dev/null 2>&1 && return 1
    [ $? = 101 ]
}
if [ ! -e "$policy" ] || ! forbids; then
    trap restore EXIT
    trap 'exit 130' INT TERM
    [ ! -e "$policy" ] || as_root mv "$policy" "$aside"
    made=1
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
fi

# The package would make a database at once.
case $missing in
    *postgresql*)
        as_root mkdir -p /etc/postgresql-common
        [ -e /etc/postgresql-common/createcluster.conf ] ||
            echo 'create_main_cluster = false' | as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
        ;;
esac

echo "setup: installing$missing"
as_root apt-get -qq update
# shellcheck disable=SC2086 # one word a package
as_root env DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes \
    apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends $missing >/dev/null

# What was installed here for our own use must not start with the machine either.
if [ -d /run/systemd/system ]; then
    for package in $missing; do
        case $package in
            nginx | redis-server | rabbitmq-server | postgresql) as_root systemctl --quiet disable "$package" ;;
        esac
    done
fi
