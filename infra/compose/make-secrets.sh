#!/bin/sh
# Makes the secrets of a stack of containers, one file each: infra/compose/make-secrets.sh [FOLDER]
# What is there is kept; a secret that was removed is made anew. FOLDER is .secrets, or ATELIER_SECRETS_DIR.
set -eu
umask 077

folder=${1:-${ATELIER_SECRETS_DIR:-.secrets}}
mkdir -p "$folder"
# Compose mounts these files as they are, and a container's user must be able to read them: so all may, and none but the
# owner gets into the folder.
chmod 700 "$folder"

# store NAME VALUE
store() {
    if [ -f "$folder/$1" ] && [ "$(cat "$folder/$1")" = "$2" ]; then
        return
    fi
    printf '%s' "$2" >"$folder/.$1.new"
    chmod 444 "$folder/.$1.new"
    mv -f "$folder/.$1.new" "$folder/$1"
    made=$((made + 1))
}

# secret NAME: 32 letters and digits, 190 bits
secret() {
    [ -s "$folder/$1" ] || store "$1" "$(LC_ALL=C tr -dc 'A-Za-z0-9' </dev/urandom 2>/dev/null | head -c 32)"
}

value() {
    cat "$folder/$1"
}

made=0
for user in gateway worker status operator; do
    secret "amqp-$user"
    store "amqp-$user.url" "amqp://$user:$(value "amqp-$user")@rabbitmq:5672/atelier"
    secret "s3-$user-access-key"
    secret "s3-$user-secret-key"
done
secret redis
store redis.url "redis://:$(value redis)@redis:6379/0"
secret postgres
for role in tenants-owner tenants-reader status-owner status; do
    secret "postgres-$role"
    store "postgres-$role.url" \
        "postgresql://$(printf %s "$role" | tr - _):$(value "postgres-$role")@postgres:5432/${role%%-*}"
done
secret key-pepper
secret operator-key
echo "secrets: $folder, $made made"
