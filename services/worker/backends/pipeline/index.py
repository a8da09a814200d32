"""Reads ``model_index.json``: which pipeline a folder holds and of which classes, all of them the libraries' own."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import diffusers
import transformers

from services.worker.backends.model_folder import read_json
from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

INDEX: Final = "model_index.json"
_LIBRARIES: Final[dict[str, Any]] = {"diffusers": diffusers, "transformers": transformers}
_PIPELINES: Final = cast("Any", diffusers).pipelines
_PAIR: Final = 2
# What a pipeline may be made of; each of them is loaded by the library's own code from JSON and safetensors.
_KINDS: Final[tuple[type, ...]] = (
    cast("Any", diffusers).ModelMixin,
    cast("Any", diffusers).SchedulerMixin,
    cast("Any", transformers).PreTrainedModel,
    cast("Any", transformers).PreTrainedTokenizerBase,
    cast("Any", transformers).ProcessorMixin,
    cast("Any", transformers).FeatureExtractionMixin,
    cast("Any", transformers).ImageProcessingMixin,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineIndex:
    """A pipeline class, the class of each component (None: the folder has none), and the pipeline's own settings."""

    pipeline: Any
    components: dict[str, Any]
    settings: dict[str, Any]


def read_index(model_dir: Path) -> PipelineIndex:
    """Read and check the index. Raises ConfigurationError that names the entry."""
    document = read_json(model_dir / INDEX)
    pipeline = _pipeline_class(document.get("_class_name"))
    entries = {name: value for name, value in document.items() if not name.startswith("_")}
    components: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for name, value in entries.items():
        if (
            isinstance(value, list)
            and len(value) == _PAIR
            and all(one is None or isinstance(one, str) for one in value)
        ):
            components[name] = None if None in value else component_class(name, *value)
        else:
            settings[name] = value
    _check_names(pipeline, {*components, *settings})
    return PipelineIndex(pipeline=pipeline, components=components, settings=settings)


def component_class(name: str, library: str, class_name: str) -> Any:  # noqa: ANN401 - diffusers has no types
    """Return a component's class. Raises ConfigurationError for code that is not the two libraries' own."""
    owner = _LIBRARIES.get(library)
    if owner is None and library.isidentifier() and library in vars(_PIPELINES).get("_import_structure", {}):
        # Diffusers writes the name of a pipeline's module for a class that belongs to it.
        owner = getattr(_PIPELINES, library, None)
    if owner is None:
        message = f"{INDEX}: {name} is of {library!r}; only classes of diffusers and transformers are loaded"
        raise ConfigurationError(message)
    found = getattr(owner, class_name, None)
    if not (isinstance(found, type) and issubclass(found, _KINDS) and _is_own(found)):
        message = f"{INDEX}: {name} is of {library}.{class_name}, which the installed library has not, or no component"
        raise ConfigurationError(message)
    return found


def _pipeline_class(name: object) -> Any:  # noqa: ANN401 - as above
    if not isinstance(name, str):
        message = f"{INDEX}: _class_name is {name!r}; a pipeline of the folder's own code is never run"
        raise ConfigurationError(message)
    found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, cast("Any", diffusers).DiffusionPipeline) and _is_own(found)):
        message = f"{INDEX}: {name!r} is no pipeline of diffusers {diffusers.__version__}"
        raise ConfigurationError(message)
    return found


def _is_own(found: type) -> bool:
    return found.__module__.partition(".")[0] in _LIBRARIES


def _check_names(pipeline: Any, names: set[str]) -> None:  # noqa: ANN401 - as above
    """Compare the entries with what the class's constructor takes."""
    parameters = inspect.signature(pipeline.__init__).parameters
    known = {name for name in parameters if name not in {"self", "kwargs"}}
    optional = {name for name, one in parameters.items() if one.default is not inspect.Parameter.empty}
    optional |= set(getattr(pipeline, "_optional_components", ()))
    if unknown := sorted(names - known):
        message = f"{INDEX}: {pipeline.__name__} has no {', '.join(unknown)}"
        raise ConfigurationError(message)
    if missing := sorted(known - optional - names):
        message = f"{INDEX}: {', '.join(missing)} of {pipeline.__name__} is missing"
        raise ConfigurationError(message)
