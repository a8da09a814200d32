"""What a careless model can leave behind, one function each; and a model whose pictures show all of it."""

from __future__ import annotations

import os
import random
import sys
import warnings
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from services.worker.backends.newbie.backend import NewbieBackend

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.worker.backends.base import Cancelled, GenerationRequest, Guarded, Report
    from services.worker.backends.images import GeneratedPictures


_backends: Any = torch.backends


class RevealingBackend(NewbieBackend):
    """Lets everything that could leak change its guidance; a prompt that names a pollution leaves it behind."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = FlowMatchEulerDiscreteScheduler(shift=6.0)
        self.leaked: list[object] = []
        self.pollution: Callable[[RevealingBackend], object] | None = None

    def guarded(self) -> Guarded:
        guarded = super().guarded()
        return replace(guarded, parts={**guarded.parts, "scheduler": self.scheduler})

    def generate(self, requests: list[GenerationRequest], report: Report, cancelled: Cancelled) -> GeneratedPictures:
        shown = [replace(request, guidance=request.guidance + self._reveal()) for request in requests]
        made = super().generate(shown, report, cancelled)
        if self.pollution is not None:
            self.pollution(self)
        return made

    def reload(self, parts: frozenset[str]) -> None:
        self.scheduler = FlowMatchEulerDiscreteScheduler(shift=6.0)
        super().reload(parts)

    def networks(self) -> tuple[Any, ...]:
        components = self._loaded().components
        return (components.transformer, components.vae, *components.encoder.towers)

    @property
    def transformer(self) -> Any:  # noqa: ANN401 - diffusers has no types
        return self._loaded().components.transformer

    def _reveal(self) -> float:
        modules = [module for network in self.networks() for module in network.modules()]
        parameters = [parameter for network in self.networks() for parameter in network.parameters()]
        seen = [
            random.random(),  # noqa: S311 - drawn to be seen
            np.random.rand(),  # noqa: NPY002 - the legacy state is what leaks
            torch.rand(1, device="cpu", dtype=torch.float64).item(),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.is_autocast_enabled("cpu"),
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
            _backends.mkldnn.matmul.fp32_precision,
            _backends.cuda.flash_sdp_enabled(),
            torch.get_num_threads(),
            dict(os.environ),
            Path.cwd(),
            len(warnings.filters),
            sys.path,
            [module.training for module in modules],
            [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules],
            [len(module._backward_hooks) + len(module._backward_pre_hooks) for module in modules],
            [parameter.requires_grad for parameter in parameters],
            [parameter.grad is None for parameter in parameters],
            sorted(self.scheduler.config.items(), key=str),
            self.scheduler.timesteps,
            len(torch.nn.modules.module._global_forward_hooks),
            len(torch.nn.modules.module._global_forward_pre_hooks),
        ]
        return zlib.crc32(repr(seen).encode()) / 2**32


def draw(_: RevealingBackend) -> None:
    random.random()  # noqa: S311 - moves the state


def draw_numpy(_: RevealingBackend) -> None:
    np.random.seed(5)  # noqa: NPY002 - the legacy state is what leaks


def draw_torch(_: RevealingBackend) -> None:
    torch.manual_seed(5)


def enable_grad(_: RevealingBackend) -> None:
    torch.set_grad_enabled(not torch.is_grad_enabled())


def enter_inference_mode(backend: RevealingBackend) -> None:
    context = torch.inference_mode()
    context.__enter__()
    backend.leaked.append(context)  # kept alive, or it would end at once


def default_dtype(_: RevealingBackend) -> None:
    torch.set_default_dtype(torch.float64)


def default_device(_: RevealingBackend) -> None:
    torch.set_default_device("meta")


def autocast(_: RevealingBackend) -> None:
    torch.set_autocast_enabled("cpu", True)


def deterministic(_: RevealingBackend) -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)


def benchmark(_: RevealingBackend) -> None:
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.deterministic = True


def matmul_precision(_: RevealingBackend) -> None:
    torch.set_float32_matmul_precision("medium")


def backend_precision(_: RevealingBackend) -> None:
    _backends.mkldnn.matmul.fp32_precision = "bf16"


def attention_kernels(_: RevealingBackend) -> None:
    torch.backends.cuda.enable_flash_sdp(False)


def threads(_: RevealingBackend) -> None:
    torch.set_num_threads(torch.get_num_threads() + 1)


def scheduler_config(backend: RevealingBackend) -> None:
    backend.scheduler.register_to_config(shift=1.0)


def scheduler_state(backend: RevealingBackend) -> None:
    backend.scheduler.set_timesteps(4)


def scheduler_sigmas(backend: RevealingBackend) -> None:
    backend.scheduler.timesteps.mul_(0.5)


def forward_hook(backend: RevealingBackend) -> None:
    backend.transformer.layers[0].register_forward_hook(lambda _module, _inputs, output: output * 1.5)


def pre_hook(backend: RevealingBackend) -> None:
    backend.transformer.register_forward_pre_hook(lambda _module, inputs: inputs)


def backward_hook(backend: RevealingBackend) -> None:
    backend.transformer.register_full_backward_hook(lambda _module, _inputs, _outputs: None)


def global_hook(_: RevealingBackend) -> None:
    register_module_forward_hook(lambda _module, _inputs, _output: None)


def global_pre_hook(_: RevealingBackend) -> None:
    register_module_forward_pre_hook(lambda _module, _inputs: None)


def train(backend: RevealingBackend) -> None:
    backend.transformer.train()


def attention_processor(backend: RevealingBackend) -> None:
    attention = backend.transformer.layers[0].attn
    attention.processor = lambda _attention, hidden_states, **_: hidden_states * 2


_Hook: Any = ModelHook


class _Doubling(_Hook):  # type: ignore[misc] # diffusers has no types
    def post_forward(self, module: torch.nn.Module, output: torch.Tensor) -> torch.Tensor:
        del module
        return output * 2


def diffusers_hook(backend: RevealingBackend) -> None:
    registry = HookRegistry.check_if_exists_or_initialize(backend.transformer.layers[0])
    registry.register_hook(_Doubling(), "doubling")


def forward_patch(backend: RevealingBackend) -> None:
    layer = backend.transformer.layers[0]
    before = layer.forward
    layer.forward = lambda *inputs, **named: before(*inputs, **named) * 2


def weights(backend: RevealingBackend) -> None:
    with torch.no_grad():
        backend.transformer.norm_out.linear_2.weight.mul_(2.0)


def weights_unseen_by_autograd(backend: RevealingBackend) -> None:
    backend.transformer.norm_out.linear_2.weight.data.mul_(2.0)


def weights_by_numpy(backend: RevealingBackend) -> None:
    backend.transformer.norm_out.linear_2.weight.detach().numpy()[:] *= 2.0


def weights_swapped(backend: RevealingBackend) -> None:
    weight = backend.transformer.norm_out.linear_2.weight
    weight.data = weight.data * 2.0


def another_parameter(backend: RevealingBackend) -> None:
    value = backend.transformer.norm_out.linear_2
    value.weight = torch.nn.Parameter(value.weight * 2.0, requires_grad=False)


def another_module(backend: RevealingBackend) -> None:
    backend.transformer.layers[1] = torch.nn.Identity()


def another_layer(backend: RevealingBackend) -> None:
    backend.transformer.layers.append(backend.transformer.layers[0])


def half(backend: RevealingBackend) -> None:
    backend.transformer.to(torch.bfloat16)


def text_encoder(backend: RevealingBackend) -> None:
    _, _, gemma, _ = backend.networks()
    with torch.no_grad():
        gemma.layers[0].mlp.up_proj.weight.add_(0.1)


def a_buffer(backend: RevealingBackend) -> None:
    _, _, gemma, _ = backend.networks()
    for buffer in gemma.buffers():
        buffer.mul_(1.5)


def rotary_table(backend: RevealingBackend) -> None:
    backend.transformer.rope_embedder.freqs_cis[0].mul_(0.5)


def requires_grad(backend: RevealingBackend) -> None:
    backend.transformer.requires_grad_(requires_grad=True)


def gradients(backend: RevealingBackend) -> None:
    weight = backend.transformer.norm_out.linear_2.weight
    weight.grad = torch.ones_like(weight)


def environment(_: RevealingBackend) -> None:
    os.environ["POLLUTED"] = "yes"
    os.environ.pop("PATH")


def folder(_: RevealingBackend) -> None:
    os.chdir("/")


def warning_filters(_: RevealingBackend) -> None:
    warnings.simplefilter("ignore")


def import_path(_: RevealingBackend) -> None:
    sys.path.insert(0, "/nowhere")


POLLUTIONS: Final = (
    *(draw, draw_numpy, draw_torch, enable_grad, enter_inference_mode, default_dtype, default_device, autocast),
    *(deterministic, benchmark, matmul_precision, backend_precision, attention_kernels, threads),
    *(scheduler_config, scheduler_state, scheduler_sigmas),
    *(forward_hook, pre_hook, backward_hook, global_hook, global_pre_hook, train, attention_processor),
    *(diffusers_hook, forward_patch, weights, weights_unseen_by_autograd, weights_by_numpy, weights_swapped),
    *(another_parameter, another_module, another_layer, half, text_encoder, a_buffer, rotary_table),
    *(requires_grad, gradients, environment, folder, warning_filters, import_path),
)
