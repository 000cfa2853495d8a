"""Baselines without weights, with the same scores, files and error handling as :class:`KernelFusionModel`.

A third baseline, our solver with the true kernel, is that model with ``kernelfusion: known_kernel: true``.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.back_projection import back_project
from ..core.degradation import upscale_bicubic
from .levels import places_of
from .options import FileOptions, check_known_kernel, file_options, read_scale
from .restoration_model import MethodResult, RestorationModel


@dataclass(frozen=True)
class BaselineOptions(FileOptions):
    """Keys of the section ``baseline:`` of every baseline; see :class:`.options.FileOptions`."""

    SECTION: ClassVar[str] = 'baseline'


@dataclass(frozen=True)
class BackProjectionOptions(BaselineOptions):
    """Keys of the section ``baseline:`` of BackProjectionModel.

    Attributes:
        known_kernel: true: the data set's kernel of each image; a path: the kernel in that file or folder.
        ridge, iterations: parameters of the pseudo-inverse, see :func:`~..core.back_projection.back_project`.
    """

    known_kernel: bool | str = True
    ridge: float = 1e-4
    iterations: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.known_kernel is False:
            raise ValueError('baseline.known_kernel must be true or a path: back-projection needs the kernel')
        if not 0 < self.ridge < float('inf') or self.iterations < 1:
            raise ValueError(f'baseline.ridge must be positive and finite and baseline.iterations at least 1, '
                             f'got {self.ridge}, {self.iterations}')


class Baseline(RestorationModel):
    """A closed-form method with ``scale`` and the section ``baseline:`` as options; its time counts as phase 2."""

    OPTIONS: ClassVar[type[BaselineOptions]] = BaselineOptions
    PLACES = places_of(BaselineOptions.SECTION, BaselineOptions)
    METHOD: ClassVar[str] = ''  # name in tables and sheets; '': the class name

    def __init__(self, opt: dict[str, Any]) -> None:
        super().__init__(opt, *self.read_options(opt))

    @classmethod
    def read_options(cls, opt: Mapping[str, Any]) -> tuple[int, BaselineOptions]:
        """Scale and the section, see :class:`.validation.ImageByImage`."""
        super().read_options(opt)
        scale, files = read_scale(opt), file_options(cls.OPTIONS, opt)
        check_known_kernel(files, opt)
        return scale, files

    def restore(self, y: Tensor) -> MethodResult:
        start = time.perf_counter()
        with torch.no_grad():
            made = self.upscale(y)
        if not isinstance(made, tuple) or len(made) != 2:
            raise ValueError(f'{type(self).__name__}.upscale must return a picture and a kernel (or None), '
                             f'but returns {type(made).__name__}')
        sr, kernel = made
        seconds = {'phase1': 0.0, 'phase2': time.perf_counter() - start}
        method = self.METHOD or type(self).__name__
        return MethodResult(sr.clamp(-1, 1), None if kernel is None else kernel.cpu(), seconds, method,
                            {'solver': method})

    def upscale(self, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """The picture (1, 3, s·h, s·w) and the kernel used, if any."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """The scale and the section's options."""
        return {'scale': self.scale, **dataclasses.asdict(self.files)}


class BicubicModel(Baseline):
    """Bicubic enlargement with a = -0.5, as in PIL and MATLAB (:func:`~..core.degradation.upscale_bicubic`)."""

    METHOD = 'bicubic'

    def upscale(self, y: Tensor) -> tuple[Tensor, None]:
        return upscale_bicubic(y, self.scale), None


class BackProjectionModel(Baseline):
    """Interpolation with the true kernel: back-projection with its pseudo-inverse (KernelFusion, Table 1).

    See :func:`~..core.back_projection.back_project`. The kernel scores are those of the given kernel.
    """

    OPTIONS = BackProjectionOptions
    PLACES = places_of(BackProjectionOptions.SECTION, BackProjectionOptions)
    METHOD = 'back-projection'

    def upscale(self, y: Tensor) -> tuple[Tensor, Tensor]:
        k = self.known_kernel().to(y)
        return back_project(y, k, self.scale, self.files.ridge, self.files.iterations), k
