#!/bin/sh
# Writes requirements.lock: every dependency of every extra, pinned; and for each image a lock of its own with hashes,
# services/<service>/requirements.lock, of the same versions. `make lock` runs it; `make lock IMAGES=only` keeps
# requirements.lock as it is.
# It resolves with uv in a virtual environment of its own, against the index that uv is set up for (UV_DEFAULT_INDEX)
# and the folders of wheels in PIP_FIND_LINKS.
set -eu

tool=.state/lock
[ -x "$tool/bin/uv" ] || { python3 -m venv "$tool" && "$tool/bin/pip" install --quiet uv; }
UV_CUSTOM_COMPILE_COMMAND='make lock'
export UV_CUSTOM_COMPILE_COMMAND
wheels=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}

# resolve OUTPUT FIND_LINKS [ARGUMENT...]
resolve() {
    output=$1
    UV_FIND_LINKS=$2
    export UV_FIND_LINKS
    shift 2
    # Without the old file as a base every version moves to its newest.
    rm -f "$output.new"
    "$tool/bin/uv" pip compile --quiet pyproject.toml --python-version 3.11 --no-annotate \
        --no-emit-index-url --no-emit-find-links --output-file "$output.new" "$@"
    # A wheel for CPUs alone is named 2.13.0+cpu and is on no public index; the plain version names it as well.
    sed -i 's/^\([A-Za-z0-9._-]*==[^+; ]*\)+[a-z0-9.]*/\1/' "$output.new"
}

cpu_only() {
    if grep -E '^(nvidia-|cuda-|triton)' "$1" | grep -v '^nvidia-ml-py='; then
        echo "lock: these come with torch's build for GPUs; put a wheel for CPUs into PIP_FIND_LINKS" >&2
        exit 1
    fi
}

# image OUTPUT FIND_LINKS EXTRA...: the versions of requirements.lock, with the hashes of all their files
image() {
    output=$1
    links=$2
    shift 2
    extras=$(for extra in "$@"; do printf ' --extra %s' "$extra"; done)
    # shellcheck disable=SC2086 # words by design
    resolve "$output" "$links" $extras --constraint requirements.lock --generate-hashes \
        --python-platform x86_64-manylinux_2_28
}

if [ "${IMAGES:-}" != only ]; then
    resolve requirements.lock "$wheels" --all-extras
    cpu_only requirements.lock.new
    mv requirements.lock.new requirements.lock
fi

image services/gateway/requirements.lock "$wheels" gateway postgres
image services/status/requirements.lock "$wheels" status postgres
image services/worker/requirements.lock "$wheels" worker
cpu_only services/worker/requirements.lock.new
# The public build of torch brings its CUDA libraries along as packages.
image services/worker/requirements-gpu.lock "" worker
for lock in gateway/requirements status/requirements worker/requirements worker/requirements-gpu; do
    mv "services/$lock.lock.new" "services/$lock.lock"
done
