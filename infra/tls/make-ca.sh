#!/bin/sh
# A certificate authority of one's own, and a certificate for each server: EC keys, valid for a year.
#
#   infra/tls/make-ca.sh FOLDER NAME[,NAME...] ...
#
# Each argument is one server: its first name is that of its files, all of them are names that it is called by (one that
# is made of digits and dots, or holds a colon, is an address). localhost and 127.0.0.1 always are. What is there already
# is kept: a new certificate is made where its file was removed. KEY_MODE (600) is the mode of the servers' keys.
set -eu
[ $# -ge 2 ] || {
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 64
}
folder=$1
shift
umask 077
mkdir -p "$folder"

if [ ! -f "$folder/ca.crt" ]; then
    openssl req -x509 -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -days 365 \
        -subj "/CN=Atelier private CA" -keyout "$folder/ca.key" -out "$folder/ca.crt.new" \
        -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign" 2>/dev/null
    chmod 444 "$folder/ca.crt.new"
    mv "$folder/ca.crt.new" "$folder/ca.crt"
fi

for names in "$@"; do
    server=${names%%,*}
    [ ! -f "$folder/$server.crt" ] || continue
    called="DNS:localhost,IP:127.0.0.1"
    for name in $(echo "$names" | tr , ' '); do
        case $name in
        *:* | *[!0-9.]*) case $name in *:*) kind=IP ;; *) kind=DNS ;; esac ;;
        *) kind=IP ;;
        esac
        called="$called,$kind:$name"
    done
    printf '%s\n' "subjectAltName=$called" "basicConstraints=critical,CA:FALSE" "keyUsage=critical,digitalSignature" \
        "extendedKeyUsage=serverAuth" >"$folder/$server.ext"
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -subj "/CN=$server" \
        -keyout "$folder/$server.key" -out "$folder/$server.csr" 2>/dev/null
    openssl x509 -req -in "$folder/$server.csr" -CA "$folder/ca.crt" -CAkey "$folder/ca.key" -CAcreateserial \
        -sha256 -days 365 -extfile "$folder/$server.ext" -out "$folder/$server.crt.new" 2>/dev/null
    rm "$folder/$server.csr" "$folder/$server.ext"
    chmod "${KEY_MODE:-600}" "$folder/$server.key"
    chmod 444 "$folder/$server.crt.new"
    mv "$folder/$server.crt.new" "$folder/$server.crt"
done
