"""``python -m services.worker.models convert|check``: what operators do with the folder of a model.

Exit status: 0 done; 78 the folder is wrong, and standard error says what about it.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from services.worker.backends.checksums import check_sums
from services.worker.backends.model_folder import read_card
from services.worker.model_check import check_model_folder
from shared.domain.errors import AtelierError
from shared.lifecycle import ExitCode
from shared.logging import configure, get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

log = get_logger(__name__)

# By the card's backend: the module that converts and checks its folders. Imported when it is asked for: they take
# seconds, and this process is no worker's.
CONVERTERS: Final = {"newbie": "services.worker.backends.newbie.repack"}


def main(arguments: Sequence[str], out: TextIO) -> int:
    """Run one command. Returns the exit status."""
    options = _options(arguments)
    configure("operator", stream=sys.stderr)
    command = _convert if options.command == "convert" else _check
    try:
        command(options, out)
    except AtelierError as exc:
        log.error("model_folder_wrong", error_code=exc.code, error_message=exc.message)  # noqa: TRY400 - the stack says nothing
        return ExitCode.CONFIGURATION
    return ExitCode.OK


def _convert(options: argparse.Namespace, out: TextIO) -> None:
    converter: Any = importlib.import_module(CONVERTERS[options.backend])
    sums = converter.convert(options.source, options.dest, options.layout, options.dtype)
    out.writelines(f"{digest}  {name}\n" for name, digest in sums.items())


def _check(options: argparse.Namespace, out: TextIO) -> None:
    """Look the folder over, compare it with its list of sums, and the weights' shapes with the model's."""
    found = check_model_folder(options.folder, require_readonly=False)
    compared = check_sums(options.folder)
    backend = str(read_card(options.folder)["model"].get("backend"))
    if backend in CONVERTERS:
        importlib.import_module(CONVERTERS[backend]).check(options.folder)
    out.write(f"{options.folder}: {found.weight_bytes} bytes of weights, {compared} files compared with SHA256SUMS\n")


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="services.worker.models", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    convert = commands.add_parser("convert", help="write a downloaded model as a folder that loads without detours")
    convert.add_argument("source", type=Path, help="the published folder, ComfyUI's files, or a diffusers-style folder")
    convert.add_argument("dest", type=Path, help="a folder that does not exist yet")
    convert.add_argument("--layout", choices=("diffusers", "published"), default="diffusers")
    convert.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    convert.add_argument("--backend", choices=sorted(CONVERTERS), default="newbie")
    check = commands.add_parser("check", help="look a model's folder over without loading it")
    check.add_argument("folder", type=Path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], sys.stdout))
