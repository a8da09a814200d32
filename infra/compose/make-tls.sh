#!/bin/sh
# What compose.tls.yml needs, after make-secrets.sh: infra/compose/make-tls.sh [NAME[,NAME...]]
# NAMEs are what clients call the entrance by. Below the folder of the secrets it makes tls/: an authority, a certificate for
# each server (see infra/tls/make-ca.sh), and the addresses of the broker and of Redis, over TLS. What is there is kept.
set -eu
umask 077

secrets=${ATELIER_SECRETS_DIR:-.secrets}
folder=$secrets/tls
# As with the other secrets: containers' users must be able to read the files, and none but the owner gets to them.
KEY_MODE=444 "$(dirname "$0")/../tls/make-ca.sh" "$folder" "nginx${1:+,$1}" gateway status-api rabbitmq redis postgres seaweedfs

# rewrite NAME EXPRESSION
rewrite() {
    sed "$2" "$secrets/$1" >"$folder/.$1.new"
    chmod 444 "$folder/.$1.new"
    mv -f "$folder/.$1.new" "$folder/$1"
}

for user in gateway worker status operator; do
    rewrite "amqp-$user.url" 's,^amqp://\(.*\):5672/,amqps://\1:5671/,'
done
rewrite redis.url 's,^redis://,rediss://,'
echo "tls: $folder, clients trust $folder/ca.crt"
