#!/bin/sh
# Makes the secrets of an overlay of deploy/k8s, one file each: infra/kubernetes/make-secrets.sh FOLDER
# They are those of a stack of containers, and the password of who scales workers. What is there is kept.
set -eu
umask 077

folder=${1:?"usage: $0 FOLDER"}
"$(dirname "$0")/../compose/make-secrets.sh" "$folder"
monitor=$folder/amqp-monitor
[ -s "$monitor" ] || LC_ALL=C tr -dc 'A-Za-z0-9' </dev/urandom 2>/dev/null | head -c 32 >"$monitor"
