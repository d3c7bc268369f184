"""Parameters and multiply-adds of a model, under two conventions side by side.

true        every multiply-add of every convolution and matrix product, at the size it is computed; all
            parameters
published   what the profiler thop 0.1.1 counts, hence what the paper's Tables 4-6 print. It takes transposed
            convolutions by their output size: four times too much at stride 2. It adds four operations a
            value of BatchNorm and LayerNorm, the sums of adaptive pooling, and softmax if it is a module.
            It sees neither GDN, the masked convolution, attention products and input-dependent kernels, nor
            any parameter that is not in a standard layer.

The layers are met by running the Flax modules themselves on shapes, so the count can't drift from the model.
Biases, activations, gates and pooling are not multiply-adds and count in neither, but for what is named.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ltchm_jax.model import LTCHM, ModelConfig
from ltchm_jax.model.attention import WAM
from ltchm_jax.model.dam import KERNELS
from ltchm_jax.model.ltchm import abstract_variables

Shape = tuple[int, ...]
Path = tuple[str, ...]
Rule = Callable[[nn.Module, Shape, Shape], tuple[int, int]]  # module, input, output -> true, published MACs


@dataclasses.dataclass(frozen=True)
class Layer:
    """One call of one layer; shapes are NHWC or [..., channels]."""

    path: Path
    kind: str
    inputs: Shape
    outputs: Shape
    kernel: int
    stride: int
    times: int  # how many layers of a stack it stands for
    macs: int
    published_macs: int
    parameters: int  # 0 in later calls of the same layer
    published_parameters: int


@dataclasses.dataclass(frozen=True)
class Complexity:
    """Sums over layers: MACs of the batch and parameters, in units."""

    macs: int
    published_macs: int
    parameters: int
    published_parameters: int


def total(layers: Iterable[Layer]) -> Complexity:
    """Adds up layers."""
    names = [field.name for field in dataclasses.fields(Complexity)]
    layers = list(layers)
    return Complexity(**{name: sum(getattr(layer, name) for layer in layers) for name in names})


def _convolution(module: Any, inputs: Shape, outputs: Shape) -> tuple[int, int]:
    macs = math.prod(outputs) * inputs[-1] * module.kernel_size**2
    return macs, macs


def _transposed(module: Any, inputs: Shape, outputs: Shape) -> tuple[int, int]:
    """One product for every input and tap, however it is computed."""
    kernel = module.kernel_size**2
    return math.prod(inputs) * outputs[-1] * kernel, math.prod(outputs) * inputs[-1] * kernel


def _linear(module: Any, inputs: Shape, outputs: Shape) -> tuple[int, int]:
    macs = math.prod(outputs) * inputs[-1]
    return macs, macs


def _depthwise(module: Any, inputs: Shape, outputs: Shape) -> tuple[int, int]:
    macs = math.prod(outputs) * module.kernel_size**2
    return macs, macs


def _input_dependent(module: Any, inputs: Shape, outputs: Shape) -> tuple[int, int]:
    """The depthwise convolution and the mixing of its kernels; thop sees the pooling to k x k only."""
    taps, (batch, height, width, channels) = module.kernel_size**2, inputs
    macs = math.prod(outputs) * taps + batch * channels * KERNELS * (taps + 1)
    return macs, batch * channels * (height * width + taps)


def _pooled(module: Any, inputs: Shape, outputs: Shape) -> tuple[int, int]:
    batch, height, width, channels = inputs
    return 0, batch * channels * (height * width + 1)


def _normalisation(module: Any, inputs: Shape, outputs: Shape) -> tuple[int, int]:
    return 0, 4 * math.prod(inputs)


def _attention_products(module: Any, inputs: Shape, outputs: Shape) -> tuple[int, int]:
    """Queries by keys and weights by values: two products a token, channel and token of its window."""
    window = module.window
    tokens = inputs[0] * math.prod(-(-n // window) * window for n in inputs[1:3])
    # Only in WAM's own code is softmax a module: an exponential, a sum and a division a weight.
    softmax = tokens * module.heads * (3 * window**2 - 1) if isinstance(module.parent, WAM) else 0
    return 2 * tokens * inputs[-1] * window**2, softmax


def _gdn(module: Any, inputs: Shape, outputs: Shape) -> tuple[int, int]:
    return math.prod(inputs) * inputs[-1], 0


def _masked(module: Any, inputs: Shape, outputs: Shape) -> tuple[int, int]:
    return math.prod(outputs) * inputs[-1], 0


def _factorised(module: Any, inputs: Shape, outputs: Shape) -> tuple[int, int]:
    widths = (1, *module.filters, 1)
    return math.prod(inputs) * sum(a * b for a, b in itertools.pairwise(widths)), 0


RULES: dict[str, Rule] = {
    "Conv": _convolution,
    "UpsampleConv": _transposed,
    "Linear": _linear,
    "DepthwiseConv": _depthwise,
    "IDConv": _input_dependent,
    "BatchNorm": _normalisation,
    "LayerNorm": _normalisation,
    "GCA": _pooled,
    "SaE": _pooled,
    "WindowAttention": _attention_products,
    "GDN": _gdn,
    "MaskedContext": _masked,
    "FactorisedPrior": _factorised,
    "GainUnit": lambda module, inputs, outputs: (0, 0),
}
PUBLISHED_PARAMETERS = ("Conv", "UpsampleConv", "Linear", "DepthwiseConv", "BatchNorm", "LayerNorm")


class _Walk:
    """Interceptor of module calls: writes down the layers that a pass meets.

    A module may run another one with slices of its parameters: a unit that stands for a stack. It counts for
    all that it stands for, however often it is traced.
    """

    def __init__(self, params: Any) -> None:
        self.params = params
        self.layers: list[Layer] = []
        self.active: list[Path] = []  # paths of the calls that are open
        self.prefix: Path = ()  # where the unit that is open lives
        self.times, self.recording = 1, True
        self.units: set[Path] = set()

    def __call__(self, call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        if module.path == () and self.active:
            return self._unit(call, args, kwargs, module)
        self.active.append(self.prefix + module.path)
        outputs = call(*args, **kwargs)
        if type(module).__name__ in RULES and self.recording:
            self._record(module, args[0].shape, outputs.shape)
        self.active.pop()
        return outputs

    def _unit(self, call: Callable, args: tuple, kwargs: dict, module: nn.Module) -> Any:
        outer = self.prefix, self.times, self.recording
        if module.is_initializing():  # to learn the shapes of its parameters, not to compute
            self.recording = False
        else:
            self._enter(module.variables["params"])
        outputs = call(*args, **kwargs)
        self.prefix, self.times, self.recording = outer
        return outputs

    def _enter(self, own: Any) -> None:
        owner = self.active[-1]
        children = _at(self.params, owner)
        name = next(k for k, v in children.items() if jax.tree.structure(v) == jax.tree.structure(own))
        self.prefix = (*owner, name)
        self.times *= _size(children[name]) // _size(own)
        self.recording &= self.prefix not in self.units
        self.units.add(self.prefix)

    def _record(self, module: Any, inputs: Shape, outputs: Shape) -> None:
        kind, path = type(module).__name__, self.active[-1]
        macs, published = RULES[kind](module, inputs, outputs)
        # The reference projects the mean that a 1x1 kernel and its bias share twice, here it is done once.
        published *= getattr(module.parent, "repeats", 1)
        own = {k: v for k, v in _at(self.params, path).items() if not isinstance(v, dict)}
        parameters = 0 if any(layer.path == path for layer in self.layers) else _size(own)
        layer = Layer(
            path=path,
            kind=kind,
            inputs=inputs,
            outputs=outputs,
            kernel=getattr(module, "kernel_size", 1),
            stride=getattr(module, "stride", 1),
            times=self.times,
            macs=self.times * macs,
            published_macs=self.times * published,
            parameters=parameters,
            published_parameters=parameters if kind in PUBLISHED_PARAMETERS else 0,
        )
        self.layers.append(layer)


def _at(params: Any, path: Path) -> Any:
    for name in path:
        params = params.get(name, {})
    return params


def _size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def layers_of(module: nn.Module, *shapes: Shape) -> list[Layer]:
    """The layers that a module runs on float32 inputs of these shapes, in the order in which they end.

    Raises:
      ValueError: some parameters lie in a kind of layer that has no rule here.
    """
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return _walk(module, jax.eval_shape(module.init, jax.random.key(0), *inputs), inputs)


def model_layers(config: ModelConfig, height: int = 256, width: int = 256, batch: int = 1) -> list[Layer]:
    """The layers of a whole pass over images [batch, height, width, bands]."""
    inputs = [jax.ShapeDtypeStruct((batch, height, width, config.bands), jnp.float32)]
    if config.lmbdas:
        inputs.append(jax.ShapeDtypeStruct((batch,), jnp.float32))
    return _walk(LTCHM(config), abstract_variables(config), inputs)


def _walk(module: nn.Module, variables: Any, inputs: list[jax.ShapeDtypeStruct]) -> list[Layer]:
    walk = _Walk(variables["params"])
    # A compiled function that was traced before calls no module.
    with nn.intercept_methods(walk), jax.disable_jit():
        jax.eval_shape(module.apply, variables, *inputs)
    counted, there = total(walk.layers).parameters, _size(variables["params"])
    if counted != there:
        raise ValueError(f"Every parameter must belong to RULES, got {counted} of {there}; add a rule.")
    return walk.layers


def by_part(layers: Iterable[Layer]) -> dict[str, Complexity]:
    """Sums by the outermost module (g_a, g_s, h_a, ...), and `total`."""
    layers = list(layers)
    names = dict.fromkeys(layer.path[0] for layer in layers)
    parts = {name: total(layer for layer in layers if layer.path[0] == name) for name in names}
    return parts | {"total": total(layers)}


def complexity_text(parts: dict[str, Complexity]) -> str:
    """A table of parts: G multiply-adds and M parameters, true and as published."""
    columns = f"{'MACs/G':>9} {'params/M':>9} {'published MACs/G':>17} {'published params/M':>19}"
    lines = [f"{'part':<12} {columns}"]
    for name, c in parts.items():
        true = f"{c.macs / 1e9:9.3f} {c.parameters / 1e6:9.3f}"
        lines.append(f"{name:<12} {true} {c.published_macs / 1e9:17.3f} {c.published_parameters / 1e6:19.3f}")
    return "\n".join(lines)
