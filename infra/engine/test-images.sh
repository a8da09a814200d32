#!/usr/bin/env bash
# The images that the tests take their servers from, and those of the stack of containers: pulls what is missing, and
# prints what it could not get. `make test-images` runs it; the tests themselves never pull.
set -euo pipefail

images=(
    rabbitmq:4-management redis:7-alpine postgres:16-alpine chrislusf/seaweedfs:4.48
    nginx:1.26-alpine python:3.11-slim-bookworm
)
seconds=600

missing=()
for image in "${images[@]}"; do
    docker image inspect "$image" >/dev/null 2>&1 || timeout "$seconds" docker pull --quiet "$image" >&2 || missing+=("$image")
done
if ((${#missing[@]})); then
    printf '%s\n' "${missing[@]}"
    exit 1
fi
