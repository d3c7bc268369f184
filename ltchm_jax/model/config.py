"""What a model is: one frozen record, and the two presets it starts from."""

import contextlib
import dataclasses
import math
import numbers
from typing import Any

ATTENTIONS = ("none", "dam", "sam", "wam", "swatten")
HYPER_ATTENTIONS = ("none", "hpham", "hpham_without_gca")

# Least and most. A configuration may come out of a foreign file: what follows from it stays within bounds.
LIMITS = {
    "width": (32, 4096), "bands": (1, 256), "components": (1, 64), "parameter_width": (1, 1 << 14),
    "idconv_reduction": (1, 32),
}  # fmt: skip
MIN_STAGE_WIDTH, MAX_STAGE_WIDTH = 16, 4096
STRIDES = {
    "attention_at_analysis": (2, 4, 8, 16),
    "attention_at_synthesis": (16, 8, 4),
    "hyper_attention_at": (16, 32),
}
MAX_RATES = 64
MAX_PRIOR_LAYERS, MAX_PRIOR_WIDTH = 8, 16


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """All choices that change the function computed, hashable so that it can be a static argument.

    The defaults are the preset `paper`: Fig. 1, Tables 1-2 and the equations of Zhang et al. 2024.

    Raises:
      ValueError: a value of another type, or out of its rule.
    """

    variant: str = "paper"  # paper | released: how hyper-attention, h_s and initial values are built
    width: int = 192  # C (N in the released code): channels of the transforms; a multiple of 32
    latent_mult: int = 2  # channels of y over C
    stage_widths: tuple[int, ...] = ()  # of analysis and synthesis at 1/2, 1/4, 1/8, 1/16; empty: C at each
    bands: int = 3  # channels of the image
    attention: str = "dam"  # one of ATTENTIONS
    attention_at_analysis: tuple[int, ...] = (2, 4, 8, 16)  # by the stride at which it stands
    attention_at_synthesis: tuple[int, ...] = (16, 8, 4)
    idconv_reduction: int = 2  # r of eq. 5
    idconv_norm: str = "batch"  # batch | none
    hyper_attention: str = "hpham"  # one of HYPER_ATTENTIONS
    hyper_attention_at: tuple[int, ...] = (16, 32)
    context: str = "masked"  # masked | none
    parameter_width: int = 640
    mixture: str = "gaussian"  # gaussian | laplace
    components: int = 3
    scale_min: float = 0.11
    prior_filters: tuple[int, ...] = (3, 3, 3)  # hidden widths of the factorised prior of z
    lmbdas: tuple[float, ...] = ()  # rates of a variable-rate model, lowest first; empty: one, no gain units

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # a list or a number of NumPy's is as good, but not to hash
            value = _typed(field.name, getattr(self, field.name), field.default)
            object.__setattr__(self, field.name, value)
        _check("variant", self.variant, ("paper", "released"))
        _check("attention", self.attention, ATTENTIONS)
        _check("hyper_attention", self.hyper_attention, HYPER_ATTENTIONS)
        _check("context", self.context, ("masked", "none"))
        _check("mixture", self.mixture, ("gaussian", "laplace"))
        _check("idconv_norm", self.idconv_norm, ("batch", "none"))
        _check("latent_mult", self.latent_mult, (1, 2))
        for name, (least, most) in LIMITS.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"`{name}` must be {least} to {most}, got {getattr(self, name)}.")
        if self.width % 32:
            raise ValueError(f"`width` must be a multiple of 32 (the attention head), got {self.width}.")
        for name, strides in STRIDES.items():
            if not set(getattr(self, name)) <= set(strides):
                raise ValueError(f"`{name}` must be strides of {strides}, got {getattr(self, name)}.")
        widths = self.stage_widths
        if len(widths) not in (0, 4) or not all(MIN_STAGE_WIDTH <= w <= MAX_STAGE_WIDTH for w in widths):
            rule = f"none or four widths of {MIN_STAGE_WIDTH} to {MAX_STAGE_WIDTH}"
            raise ValueError(f"`stage_widths` must be {rule}, got {str(widths)[:80]}.")
        self._check_attention()
        self._check_distributions()

    def _check_attention(self) -> None:
        """Whether heads and bottlenecks come out whole at every place where an attention module stands."""
        if self.hyper_attention != "none" and 16 in self.hyper_attention_at and self.latent_channels % 64:
            raise ValueError(
                "`width` must be a multiple of 64 where hyper-attention stands at 16 and y has as many "
                f"channels (`latent_mult` 1), got {self.width}."
            )
        for stride in {*self.attention_at_analysis, *self.attention_at_synthesis}:
            width = self.width_at(stride)
            if self.attention == "dam" and width < self.idconv_reduction:
                raise ValueError(
                    f"`idconv_reduction` must be at most the {width} channels at stride {stride}, got "
                    f"{self.idconv_reduction}."
                )
            if self.attention == "wam" and width % 8:
                raise ValueError(
                    f"`stage_widths` must be multiples of 8 (heads) where `wam` stands, got {width}."
                )

    def _check_distributions(self) -> None:
        if not 0 < self.scale_min < math.inf:
            raise ValueError(f"`scale_min` must be a positive number, got {self.scale_min}.")
        filters, rates = self.prior_filters, self.lmbdas
        if len(filters) > MAX_PRIOR_LAYERS or not all(1 <= width <= MAX_PRIOR_WIDTH for width in filters):
            rule = f"up to {MAX_PRIOR_LAYERS} widths of 1 to {MAX_PRIOR_WIDTH}"
            raise ValueError(f"`prior_filters` must be {rule}, got {str(filters)[:80]}.")
        rising = all(0 < low < high for low, high in zip((1e-30, *rates), (*rates, math.inf), strict=True))
        if len(rates) > MAX_RATES or not rising:
            rule = f"up to {MAX_RATES} positive numbers, lowest first"
            raise ValueError(f"`lmbdas` must be {rule}, got {str(rates)[:80]}.")

    @property
    def latent_channels(self) -> int:
        """M: channels of y."""
        return self.latent_mult * self.width

    def width_at(self, stride: int) -> int:
        """Channels of analysis and synthesis at 1/stride of the image's sides: 2, 4, 8 or 16."""
        return self.stage_widths[(2, 4, 8, 16).index(stride)] if self.stage_widths else self.width

    def to_dict(self) -> dict[str, Any]:
        """Plain values (tuples as lists), for JSON; no `stage_widths` where there are none.

        A digest is taken of this: models older than that field keep theirs.
        """
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}
        return values if self.stage_widths else {k: v for k, v in values.items() if k != "stage_widths"}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """The inverse of `to_dict`.

        Raises:
          ValueError: no dictionary, an unknown field, or a value out of its rule.
        """
        if not isinstance(values, dict):
            raise ValueError(f"A model's configuration must be a table of fields, got {str(values)[:80]!r}.")
        fields = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise ValueError(
                f"A model has no field {', '.join(unknown)}; the fields are {', '.join(sorted(fields))}."
            )
        return cls(**values)


def _check(name: str, value: Any, legal: tuple[Any, ...]) -> None:
    if value not in legal:
        raise ValueError(f"`{name}` must be one of {', '.join(map(str, legal))}, got {str(value)[:80]!r}.")


def _typed(name: str, value: Any, default: Any) -> Any:
    """A value as the type of the default, which is str, int, float or a tuple of numbers."""
    with contextlib.suppress(OverflowError):  # an integer that is no float
        if isinstance(default, tuple):
            kind = float if name == "lmbdas" else int
            if isinstance(value, (list, tuple)) and all(_is_number(v, kind) for v in value):
                return tuple(kind(v) for v in value)
        elif isinstance(default, str):
            if isinstance(value, str):
                return value
        elif _is_number(value, type(default)):
            return type(default)(value)
    raise ValueError(f"`{name}` must be like {default!r}, got {str(value)[:80]!r}.")


def _is_number(value: Any, kind: type) -> bool:
    """Whether a value can stand for an int or a float; NumPy's can, bool can't."""
    family = numbers.Integral if kind is int else numbers.Real
    return isinstance(value, family) and not isinstance(value, bool)


PRESETS = {
    "paper": ModelConfig(),
    "released": ModelConfig(
        variant="released",
        width=128,
        latent_mult=1,
        attention_at_analysis=(4, 16),
        attention_at_synthesis=(16, 4),
        idconv_reduction=4,
        hyper_attention_at=(32,),
        mixture="laplace",
        scale_min=1e-4,
        prior_filters=(1, 1, 1),
    ),
}
