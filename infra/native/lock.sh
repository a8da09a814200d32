#!/bin/sh
# Writes requirements.lock: every dependency of every extra, pinned. `make lock` runs it.
# It resolves with uv in a virtual environment of its own, against the index that uv is set up for (UV_DEFAULT_INDEX)
# and the folders of wheels in PIP_FIND_LINKS.
set -eu

tool=.state/lock
[ -x "$tool/bin/uv" ] || { python3 -m venv "$tool" && "$tool/bin/pip" install --quiet uv; }
UV_FIND_LINKS=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}
UV_CUSTOM_COMPILE_COMMAND='make lock'
export UV_FIND_LINKS UV_CUSTOM_COMPILE_COMMAND
# Without the old file as a base every version moves to its newest.
rm -f requirements.lock.new
"$tool/bin/uv" pip compile --quiet pyproject.toml --all-extras --python-version 3.11 --no-annotate \
    --no-emit-index-url --no-emit-find-links --output-file requirements.lock.new

# A wheel for CPUs alone is named 2.13.0+cpu and is on no public index; the plain version names it as well.
sed -i 's/^\([A-Za-z0-9._-]*==[^+; ]*\)+[a-z0-9.]*/\1/' requirements.lock.new
if grep -E '^(nvidia-|cuda-|triton)' requirements.lock.new; then
    echo "lock: these come with torch's build for GPUs; put a wheel for CPUs into PIP_FIND_LINKS" >&2
    exit 1
fi
mv requirements.lock.new requirements.lock
