"""A whole model with layers in it, through torch's own exporter."""

from __future__ import annotations

import inspect
import logging
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from ...engine.choice import ENGINES
from ...engine.engine import Engine
from ...extras import require
from ...language import ArgumentError
from ...nn.layer import Layer, SequenceLayer
from .items import as_one_operation
from .layer import check_step
from .translation import PREFIX
from .writer import check_dtype, fold_weights


def whole_model(
    model: nn.Module,
    example: Any,
    marks: Sequence[str],
    translations: Mapping[Callable, Callable],
    *,
    step: bool = False,
    **options: Any,
) -> Any:
    """Write a model as ONNX, an `onnx.ModelProto`.

    Args:
        model: that holds layers.
        example: as `export_onnx` has it.
        marks: those of "lengths", "starts" and "resets" that the model takes.
        translations: those of layers, `onnx_translations`.
        step: as `export_onnx` has it.
        **options: of `torch.onnx.export`.
    """
    require("export_onnx", "onnx")
    layers = _layers(model)
    call = _arguments(model, example, marks, layers[0].batch_first)
    times: set[str] = set()
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_evaluated(model))
        stack.enter_context(_without_torchs_notes())
        for layer in layers:
            if layer.item_sizes:
                stack.enter_context(as_one_operation(layer))
            stack.enter_context(layer.running_on(ENGINES["native"]))
            _check_gates(layer, ENGINES["native"])
            stack.callback(layer.register_forward_pre_hook(_refuse_packed).remove)
            if step:
                hook = layer.register_forward_pre_hook(partial(_take_one_step, times))
                stack.callback(hook.remove)
        program = _traced(model, call)
        written = torch.onnx.export(
            program,
            dynamo=True,
            custom_translation_table=dict(translations),
            verbose=False,
            **options,
        )
    proto = written.model_proto  # type: ignore[union-attr]
    fold_weights(proto, PREFIX)
    _name_sizes(proto.graph, layers[0].batch_first, times)
    return proto


def _traced(
    model: nn.Module, call: inspect.BoundArguments
) -> torch.export.ExportedProgram:
    """The model as torch.export sees it: every size is free that it does not fix."""
    free = pytree.tree_map(_free_sizes, dict(call.arguments))
    # A size of 1 is a size as any other. (Older versions of torch fix it.)
    name = "backed_size_oblivious"
    with _config.patch(name, True) if hasattr(_config, name) else nullcontext():  # type: ignore[attr-defined]
        return torch.export.export(
            model, call.args, call.kwargs, dynamic_shapes=free, strict=False
        )


def _free_sizes(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return None
    return dict.fromkeys(range(value.dim()), torch.export.Dim.AUTO)


def _layers(model: nn.Module) -> list[Any]:
    """The layers of a model, which must be of sequences."""
    layers = [m for m in model.modules() if isinstance(m, Layer)]
    if not layers:
        raise ArgumentError(
            f"[export_onnx] received a {type(model).__name__} without a layer of "
            "cellwright's, expected one with a Recurrent, LSTM, GRU or RNN. "
            "torch.onnx.export(model, …, dynamo=True) writes it"
        )
    for layer in layers:
        if not isinstance(layer, SequenceLayer):
            raise ArgumentError(
                f"[export_onnx] received a model with a {type(layer).__name__}, "
                "expected layers of sequences alone: the forest of a call is no tensor"
            )
        check_dtype(layer.placement()[1])
    return layers


def _check_gates(layer: Any, engine: Engine) -> None:
    if layer.current_engine is not engine:
        raise ArgumentError(
            f"[export_onnx] received a {type(layer).__name__} with hooks on a gate (or "
            "another module in its place), which a file cannot call; expected plain "
            "gates. Remove the hooks"
        )


def _refuse_packed(layer: nn.Module, arguments: Any) -> None:
    if any(isinstance(value, PackedSequence) for value in arguments):
        raise ArgumentError(
            f"[export_onnx] a {type(layer).__name__} received a PackedSequence, whose "
            "sizes are numbers; expected a padded x, and its lengths as "
            "layer(x, lengths=lengths)"
        )


def _take_one_step(times: set[str], layer: Any, arguments: Any) -> None:
    """Add the symbol of the size that is time to `times`.

    Of layers that the model calls: an encoder beside the decoder that is exported may
    be of both directions.
    """
    check_step(layer)
    size = arguments[0].shape[1 if layer.batch_first else 0]
    times.add(str(size))
    if size != 1:
        raise ArgumentError(
            f"[export_onnx] step=True: a {type(layer).__name__} received {int(size)} "
            "steps, expected an example of one"
        )


# -- arguments -----------------------------------------------------------------


def _arguments(
    model: nn.Module, example: Any, marks: Sequence[str], batch_first: bool
) -> inspect.BoundArguments:
    """What the model's forward is called with."""
    signature = inspect.signature(model.forward)
    if isinstance(example, Mapping):
        call = signature.bind_partial(**example)
    else:
        given = example if isinstance(example, tuple) else (example,)
        call = signature.bind_partial(*given)
    tensors = [t for t in pytree.tree_leaves(call.arguments) if isinstance(t, Tensor)]
    if not tensors:
        raise ArgumentError(
            f"[export_onnx] received example={example!r}, expected what the model's "
            "forward takes: a tensor, a tuple, or a dict by name"
        )
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD and call.arguments.get(name):
            raise ArgumentError(  # a limit of torch.export's
                f"[export_onnx] {type(model).__name__}.forward takes "
                f"{', '.join(call.arguments[name])} as **{name}, whose sizes cannot be "
                "free; expected an argument of its own for each"
            )
    for name in marks:
        if name not in signature.parameters:
            raise ArgumentError(
                f"[export_onnx] {type(model).__name__}.forward takes no {name!r}; "
                f"received {name}=True, expected a forward with that argument, which "
                f"it hands to its layers: layer(x, {name}={name})"
            )
        if call.arguments.get(name) is None:
            call.arguments[name] = _example_of(name, tensors[0], batch_first)
    # Copies: torch.export takes one tensor that is given twice for one input.
    copied = pytree.tree_map_only(Tensor, torch.clone, (call.args, call.kwargs))
    return signature.bind(*copied[0], **copied[1])


def _example_of(name: str, x: Tensor, batch_first: bool) -> Tensor:
    """Lengths, starts or resets that go with x."""
    batch, steps = x.shape[:2] if batch_first else (x.shape[1], x.shape[0])
    if name == "resets":
        return torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
    value = steps if name == "lengths" else 0
    return torch.full((batch,), value, dtype=torch.int64, device=x.device)


# -- around torch's exporter ---------------------------------------------------


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """The model as `model.eval()` runs it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _without_torchs_notes() -> Iterator[None]:
    """Without what torch's exporter says of its own future, and of torchvision."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        try:
            yield
        finally:
            logger.setLevel(level)


def _name_sizes(graph: Any, batch_first: bool, ones: Collection[str]) -> None:
    """Call the free sizes of the first input `time` and `batch`, everywhere; those in
    `ones` are 1."""
    names = ("batch", "time") if batch_first else ("time", "batch")
    first = graph.input[0].type.tensor_type.shape.dim
    symbols = [size.dim_param for size in first]
    known = dict(zip(symbols, names, strict=False)) | dict.fromkeys(ones, "1")
    del graph.value_info[:]  # a runtime infers them
    for value in (*graph.input, *graph.output):
        for size in value.type.tensor_type.shape.dim:
            text = re.sub(r"\w+", lambda m: known.get(m[0], m[0]), size.dim_param)
            if text.isdigit():
                size.dim_value = int(text)
            elif text:
                size.dim_param = text
