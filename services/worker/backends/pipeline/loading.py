"""Loads a local diffusers folder component by component, strictly: safetensors only, no network, no code."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, cast

import diffusers
import transformers
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from services.worker.backends.model_folder import refuse_unsafe
from services.worker.backends.networks.loading import naming, refuse_differences
from services.worker.backends.pipeline.index import read_index
from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from services.worker.backends.pipeline.index import PipelineIndex

_ModelMixin: Any = cast("Any", diffusers).ModelMixin
_PreTrainedModel: Any = cast("Any", transformers).PreTrainedModel


def load_pipeline(
    model_dir: Path, dtype: torch.dtype, variant: str | None = None, kept: Mapping[str, Any] | None = None
) -> Any:  # noqa: ANN401 - diffusers has no types
    """Load the folder's pipeline to the host, all frozen. ``kept`` are components that need no loading.

    Raises ConfigurationError (naming the component, and some keys where weights and model differ), OutOfMemoryError.
    """
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call] # the library's gap
    diffusers_logging.disable_progress_bar()
    refuse_unsafe(model_dir)
    index = read_index(model_dir)
    components: dict[str, Any] = {}
    for name, kind in index.components.items():
        if kept is not None and name in kept:
            components[name] = kept[name]
            continue
        with naming(name):
            components[name] = None if kind is None else _load(kind, model_dir / name, dtype, variant)
    with naming(index.pipeline.__name__):
        pipeline = index.pipeline(**_absent(index), **components, **index.settings)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _absent(index: PipelineIndex) -> dict[str, None]:
    """Optional components that the folder does not name and whose constructor has no default for them."""
    parameters = inspect.signature(index.pipeline.__init__).parameters
    optional = set(getattr(index.pipeline, "_optional_components", ()))
    named = {*index.components, *index.settings}
    return {
        name: None
        for name, one in parameters.items()
        if name in optional - named and one.default is inspect.Parameter.empty
    }


def _load(kind: Any, folder: Path, dtype: torch.dtype, variant: str | None) -> Any:  # noqa: ANN401 - as above
    if not folder.is_dir():
        message = "its folder is missing"
        raise ConfigurationError(message)
    if issubclass(kind, _ModelMixin):
        return _load_model(kind, folder, {"torch_dtype": dtype, "variant": variant}, strict=True)
    if issubclass(kind, _PreTrainedModel):
        # A text tower is often published as a part of a larger model: what is left over is rightly so.
        return _load_model(kind, folder, {"dtype": dtype, "variant": variant}, strict=False)
    return kind.from_pretrained(folder, local_files_only=True)


def _load_model(kind: Any, folder: Path, how: dict[str, Any], *, strict: bool) -> Any:  # noqa: ANN401 - as above
    model, info = kind.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **how
    )
    # A library would draw these at random, and say so in a log that nobody reads.
    unread = {name for name, value in (*model.named_parameters(), *model.named_buffers()) if value.is_meta}
    found = {**info, "missing_keys": {*info["missing_keys"], *unread}}
    refuse_differences(found, left_over=() if strict else ("",))
    frozen: torch.nn.Module = model.eval().requires_grad_(requires_grad=False)
    return frozen
