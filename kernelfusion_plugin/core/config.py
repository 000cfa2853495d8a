"""The configuration of a run: a frozen dataclass, its presets, and how to read it from an option file."""

from __future__ import annotations

import dataclasses
import math
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .degradation import BORDERS
from .em_config import EmConfig
from .joint import JointConfig
from .patch_prior import PriorConfig
from .regional_degradation import read_grid
from .sections import check_choice, check_keys, must_be
from .solvers import SOLVERS
from .texture_prior import T_MAX, TRAINING, TuningConfig

# With only a few hundred gradient steps in Phase 2, R needs a higher rate than the paper's 1e-4: at 1e-4 an L-shaped
# kernel is still a blob (correlation 0.66 after 360 steps on a 64 x 64 crop), at 5e-4 it looks like an L (0.80).
_SHORT_JOINT = JointConfig(lr=5e-4, lr_final=5e-5)

MAX_KERNEL = 64  # largest K: the size of em's normal equations grows as K⁴

PRESETS: dict[str, dict[str, Any]] = {
    # A few minutes on a CPU for a 128 x 128 LR image.
    'quick': {
        'prior': PriorConfig(channels=64, steps=700, batch=4, lr=1e-3, lr_end=1e-5, t_max=400, ema=0.995),
        'em': EmConfig(),
        'joint': _SHORT_JOINT,
    },
    # The paper's network, trained for fewer steps with larger batches.
    'balanced': {
        'prior': PriorConfig(steps=10_000, batch=4, lr=5e-4, lr_end=1e-6, t_max=400, ema=0.999),
        'em': EmConfig(),
        'joint': _SHORT_JOINT,
    },
    'paper-100k': {'prior': PriorConfig(steps=100_000), 'em': EmConfig(), 'joint': JointConfig()},
    'paper': {'prior': PriorConfig(), 'em': EmConfig(), 'joint': JointConfig()},
}


@dataclass(frozen=True)
class KernelFusionConfig:
    """Everything that determines the result, apart from the image and its name.

    Attributes:
        scale: s, 2 to 8; the paper uses 4.
        kernel_size: K of the K x K kernel on the HR grid; None: 6·s, i.e. the paper's 24 at x4.
        solver: of Phase 2: ``em`` (diffusion EM, fast) or ``joint`` (the paper's Algorithm 1).
        preset: ``quick``, ``balanced``, ``paper-100k`` or ``paper``; sets the defaults of ``prior``, ``em`` and
            ``joint``.
        border: model of the scene beyond the frame, see :class:`~.degradation.Degradation`. ``valid`` assumes nothing.
        regions: ``RxC``: one kernel for each of R x C regions, for blur that varies across the picture; ``auto``: as
            many regions as the picture has room for, up to 3 x 3; ``1x1``: one kernel. See :mod:`.regions`; needs
            ``em``.
        seed: seeds all randomness, together with the image's name.
        memory_limit: GB (10^9 bytes) that a run may use on its device; None: nine tenths of the device's memory. It
            determines the tile size, which affects results by rounding only.
        prior: Phase 1 settings for fitting PD to y.
        texture_weights: weights file of the texture prior, written by ``kernelfusion fit-textures``; None: the shipped
            weights.
        tuning: Phase 1 settings for tuning the texture prior to y (``em.final_prior: tuned``).
        em, joint: settings of the two Phase 2 solvers.
        own: settings of another solver, of its type :attr:`.Solver.settings` or a mapping; None if it has none. In
            dicts and option files the section of the solver's name. Each field has a default and is a number, text,
            true or false, or None.

    Raises:
        ValueError: a value is out of range; the message names the option.
    """

    scale: int = 4
    kernel_size: int | None = None
    solver: str = 'em'
    preset: str = 'balanced'
    border: str = 'valid'
    regions: str = '1x1'
    seed: int = 0
    prior: PriorConfig = None  # type: ignore[assignment]  # None: the preset's; a mapping: changes to the preset's
    em: EmConfig = None  # type: ignore[assignment]
    joint: JointConfig = None  # type: ignore[assignment]
    tuning: TuningConfig = TuningConfig()
    texture_weights: str | None = None
    memory_limit: float | None = None
    own: Any = None

    def __post_init__(self) -> None:
        self._read_types()
        check_choice('solver', self.solver, SOLVERS)
        self._read_own()
        if read_grid(self.regions) != (1, 1) and not SOLVERS[self.solver].takes_regions:
            raise ValueError(f'regions: {self.regions}: solver {self.solver!r} finds one kernel for the whole picture')
        check_choice('border', self.border, BORDERS)
        if not 2 <= self.scale <= 8:
            raise ValueError(f'scale must be between 2 and 8, got {self.scale}')
        if self.memory_limit is not None and not 0 < self.memory_limit < math.inf:
            raise ValueError(f'memory_limit must be positive and finite, in GB, got {self.memory_limit}')
        if self.kernel_size is None:
            object.__setattr__(self, 'kernel_size', 6 * self.scale)
        if not 2 * self.scale <= self.kernel_size <= MAX_KERNEL:
            raise ValueError(f'kernel_size must be between 2 · scale = {2 * self.scale} and {MAX_KERNEL}, got '
                             f'{self.kernel_size}')
        if self.texture_weights:
            object.__setattr__(self, 'texture_weights', os.path.expanduser(self.texture_weights))
            if not self.uses_textures:
                raise ValueError(f'texture_weights: {self.texture_weights}: this run has no texture prior')
        self._check_levels()

    @property
    def uses_textures(self) -> bool:
        """Whether the texture prior is used, as shipped or tuned to y."""
        return SOLVERS[self.solver].uses_textures(self)

    @property
    def phase2(self) -> Any:
        """Settings of the solver."""
        return getattr(self, self.solver, self.own)

    def _read_types(self) -> None:
        """Convert every value to its field's type; a section given as a mapping overrides values of the preset's."""
        check_choice('preset', self.preset, PRESETS)
        hints = typing.get_type_hints(type(self))
        sections = {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)}
        for name in hints.keys() - sections.keys() - {'own'}:
            object.__setattr__(self, name, _read(getattr(self, name), hints[name], name))
        for name, kind in sections.items():
            given = getattr(self, name)
            if not isinstance(given, kind):
                default = PRESETS[self.preset].get(name) or kind()
                object.__setattr__(self, name, default if given is None else _replace(default, given, name))

    def _read_own(self) -> None:
        kind = SOLVERS[self.solver].settings
        if kind is None and self.own is not None:
            raise ValueError(f'solver {self.solver!r} has no settings of its own, got {self.own!r}')
        if kind is not None and not isinstance(self.own, kind):
            object.__setattr__(self, 'own', _section(kind, self.own, self.solver))

    def _check_levels(self) -> None:
        """Check that the solver starts at a level its prior is trained on, before spending hours on Phase 1."""
        limit = 'timesteps' if self.prior.t_max is None else 't_max'
        limits = {'prior': (f'prior.{limit}', getattr(self.prior, limit)),
                  'textures': ("the texture prior's levels", T_MAX)}
        for name, priors in SOLVERS[self.solver].starts(self).items():
            start = getattr(self.phase2, name)
            for what, levels in (limits[prior] for prior in priors):
                if start >= levels:
                    raise ValueError(f'{self.solver}.{name} must be below {what} = {levels}, the levels that the prior '
                                     f'is trained on, got {start}')
        if self.uses_textures and self.prior.timesteps != TRAINING.timesteps:
            raise ValueError(f'prior.timesteps must be {TRAINING.timesteps}, as in the texture prior, got '
                             f'{self.prior.timesteps}; or set em.kernel_prior and em.final_prior to internal')

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> KernelFusionConfig:
        """The config described by a section of an option file: the preset, overridden by the keys given.

        Numbers may be given as strings, since YAML reads ``1e-4`` as a string.

        Raises:
            ValueError: unknown key (the message suggests the closest known one), wrong type, or value out of range.
        """
        if not isinstance(options, Mapping):
            raise ValueError(f'the settings must be a section of options, got {options!r}')
        check_keys('', options, cls.keys())
        own = {name: _section(kind, options[name], name) for name, kind in own_sections().items() if name in options}
        fields = {key: value for key, value in options.items() if key not in own}
        return cls(**fields, own=own.get(str(fields.get('solver'))))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON or YAML; the inverse of ``from_dict``."""
        settings = dataclasses.asdict(self)
        own = settings.pop('own')
        return settings if own is None else {**settings, self.solver: own}

    @classmethod
    def keys(cls) -> set[str]:
        """The keys that ``from_dict`` takes."""
        return {field.name for field in dataclasses.fields(cls)} - {'own'} | own_sections().keys()


def own_sections() -> dict[str, type]:
    """Settings of the solvers outside of this package, by the solver's name."""
    return {name: solver.settings for name, solver in SOLVERS.items() if solver.settings is not None}


def _section(kind: type, options: Any, name: str) -> Any:
    """A ``kind`` with the options of the section ``name``; None: all defaults."""
    return _replace(kind(), {} if options is None else options, name)


def _replace(config: Any, options: Any, section: str) -> Any:
    """``dataclasses.replace`` that checks names and converts values to the fields' types."""
    if not isinstance(options, Mapping):
        raise ValueError(f'option {section!r} must be a section of options, got {options!r}')
    hints = typing.get_type_hints(type(config))
    check_keys(section, options, hints)
    return dataclasses.replace(config, **{key: _read(value, hints[key], f'{section}.{key}')
                                          for key, value in options.items()})


def _read(value: Any, kind: Any, name: str) -> Any:
    """``value`` converted to the annotated type ``kind``: int, float, str or bool, possibly ``| None``."""
    if isinstance(kind, types.UnionType):
        if value is None or value in ('None', 'null', '~'):
            return None
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    wrong = must_be(f'option {name!r}', kind, value)
    if kind is bool or isinstance(value, bool):
        if kind is bool and isinstance(value, bool):
            return value
        raise ValueError(wrong)
    if kind is str:
        if isinstance(value, (str, os.PathLike)):
            return os.fspath(value)
        raise ValueError(wrong)
    try:
        number = float(value)
        if kind is int and number != int(number):
            raise ValueError
        return kind(number)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(wrong) from None
