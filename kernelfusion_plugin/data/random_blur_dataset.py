"""``RandomBlurDataset``: training pairs made from HR images on the fly, each with its own kernel."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import torch
from basicsr.data.data_util import paths_from_folder, paths_from_lmdb
from basicsr.utils import FileClient, imfrombytes, img2tensor
from PIL import Image
from torch import Tensor

from ..core.degradation import BORDERS, Degradation
from ..core.kernel_families import Mixture
from ..core.sections import check_choice, check_number, check_range, from_section, must_be
from ..core.seeds import derived
from ..files import as_saved
from ..listing import no_pictures, without_others
from .tolerant_dataset import SharedLmdb


@dataclass(frozen=True)
class BlurOptions:
    """How pairs are made: the data set's keys besides BasicSR's.

    Attributes:
        scale: s, 2, 3 or 4.
        kernels: list of kernel families, see :mod:`..core.kernel_families`.
        gt_size: side of the HR crop, a multiple of s; None: the whole image, cropped to a multiple of s.
        use_hflip, use_rot: randomly flip HR crops horizontally; rotate them by 90 degrees and flip them vertically.
        border: padding of x beyond its frame, see :class:`~..core.degradation.Degradation`.
        noise: standard deviation of white noise in LR, in grey levels (0 to 255): a number or [min, max].
        jpeg: quality of JPEG compression of LR, 1 to 100: a number or [min, max]; None: no compression.
        seed: seeds an image's random draws, together with its name, in all phases except ``train``.
    """

    scale: int
    kernels: tuple[Mapping[str, Any], ...]
    gt_size: int | None = None
    use_hflip: bool = False
    use_rot: bool = False
    border: str = 'reflect'
    noise: tuple[float, float] = (0.0, 0.0)
    jpeg: tuple[int, int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_number('scale', self.scale, 2, 4, whole=True)
        check_number('seed', self.seed, 0, whole=True)
        if self.gt_size is not None:
            check_number('gt_size', self.gt_size, self.scale, whole=True)
            if self.gt_size % self.scale:
                raise ValueError(f'gt_size must be a multiple of the scale {self.scale}, got {self.gt_size}')
        check_choice('border', self.border, BORDERS[1:])
        for name in ('use_hflip', 'use_rot'):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(must_be(name, bool, getattr(self, name)))
        object.__setattr__(self, 'noise', check_range('noise', self.noise, 0, 255))
        if self.jpeg is not None:
            low, high = check_range('jpeg', self.jpeg, 1, 100)
            object.__setattr__(self, 'jpeg', (int(low), int(high)))


# Keys read or added by BasicSR or its loader.
TOOLBOX_KEYS = {'name', 'type', 'phase', 'dataroot_gt', 'io_backend', 'meta_info_file', 'num_worker_per_gpu',
                'batch_size_per_gpu', 'dataset_enlarge_ratio', 'prefetch_mode', 'num_prefetch_queue', 'pin_memory',
                'persistent_workers', 'use_shuffle', 'dataroot_kernel', 'kernel_tmpl'}


class RandomBlurDataset(torch.utils.data.Dataset):
    """HR images of a folder or LMDB (``dataroot_gt``); y = (x * k)↓s with a random k, rounded to 8 bits.

    Options: BasicSR's, and those of :class:`BlurOptions`. In phase ``train`` an item differs at every call: its random
    draws come from torch's generator in the loader's worker, which depends on ``manual_seed``, worker, epoch and rank.
    (BasicSR seeds those of numpy and random alike in every epoch, so they are not used.) In other phases the draws
    depend only on ``seed`` and the image's file name.

    If K - s is odd, LR lies half an HR pixel off the grid of bicubic reduction, see :mod:`..core.degradation`.

    Items: ``gt`` (3, H, W) and ``lq`` (3, H / s, W / s), float32 RGB in [0, 1]; ``kernel`` (K, K), float32, sums to 1,
    as drawn; ``lq_path`` and ``gt_path``, both the path of the HR image.

    Raises:
        ValueError: an option is unknown or out of range; a file is not an image or is smaller than ``gt_size``.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.opt = opt
        self.name = str(opt.get('name') or opt.get('phase'))
        self.options, self.mixture = self.read_options(opt, f'datasets ({self.name})')
        self.degradation = Degradation(self.options.scale, self.mixture.size, self.options.border)
        self.is_train = opt.get('phase') == 'train'
        self.gt_folder = self.lq_folder = str(opt.get('dataroot_gt') or '')  # of both paths of an item
        self.io_backend = dict(opt.get('io_backend') or {'type': 'disk'})
        self.file_client: FileClient | SharedLmdb | None = None
        self.paths = self._find()

    @staticmethod
    def read_options(opt: Mapping[str, Any], where: str) -> tuple[BlurOptions, Mixture]:
        """Parse the options for pairs and kernels, without looking at pictures.

        Args:
            where: name of the data set, for messages.

        Raises:
            ValueError: an option is unknown, missing or out of range.
        """
        options = from_section(BlurOptions, {key: value for key, value in opt.items() if key not in TOOLBOX_KEYS},
                               where)
        if opt.get('phase') == 'train' and options.gt_size is None:
            raise ValueError(f'{where} needs gt_size, the side of the HR crops in a batch')
        return options, Mixture.from_options(options.kernels, f'{where}.kernels')

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.paths[index]
        seed = getattr(index, 'seed', None)  # from resume.ResumableSampler
        generator = torch.Generator().manual_seed(self._seed(path) if seed is None else seed)
        gt = self._crop(self._read(path), path, generator)
        k = self.mixture.draw(generator)
        return {'lq': self._degrade(gt, k, generator), 'gt': gt, 'kernel': k, 'lq_path': path, 'gt_path': path}

    def _seed(self, path: str) -> int:
        """In training, the next number from the worker's generator; otherwise a hash of seed and name."""
        if self.is_train:
            return int(torch.randint(2 ** 62, ()))
        name = os.path.splitext(os.path.basename(path))[0]
        return derived(self.options.seed, name, 'pair')

    def _read(self, path: str) -> Tensor:
        """(3, H, W) RGB in [0, 1]."""
        if self.file_client is None:
            options = {key: value for key, value in self.io_backend.items() if key != 'type'}
            lmdb = self.io_backend['type'] == 'lmdb'
            self.file_client = (SharedLmdb({'lq': self.lq_folder, 'gt': self.gt_folder}) if lmdb
                                else FileClient(self.io_backend['type'], **options))
        raw = self.file_client.get(path, 'gt')
        try:
            return img2tensor(imfrombytes(raw, float32=True), bgr2rgb=True, float32=True)
        except (cv2.error, AttributeError, TypeError) as error:  # OpenCV returns None if it cannot decode
            raise ValueError(f'{path}: not an image') from error

    def _crop(self, gt: Tensor, path: str, generator: torch.Generator) -> Tensor:
        size, s = self.options.gt_size, self.options.scale
        height, width = gt.shape[-2:]
        if min(height, width) < (size or s):
            raise ValueError(f'{path}: the image of {width} x {height} (width x height) is smaller than '
                             f'{f"gt_size {size}" if size else f"the scale {s}"}: remove it')
        if size is None:
            gt = gt[..., :height // s * s, :width // s * s]
        else:
            top, left = (int(torch.randint(n - size + 1, (), generator=generator)) for n in (height, width))
            gt = gt[..., top:top + size, left:left + size]
        flip, turn, upside = (torch.rand(3, generator=generator) < 0.5).tolist()
        if flip and self.options.use_hflip:
            gt = gt.flip(-1)
        if self.options.use_rot:
            gt = gt.flip(-2) if upside else gt
            gt = gt.transpose(-1, -2) if turn else gt
        return gt.contiguous()

    def _degrade(self, gt: Tensor, k: Tensor, generator: torch.Generator) -> Tensor:
        """y = JPEG(round((x * k)↓s + noise)), in [0, 1]."""
        y = 255 * self.degradation.forward(gt[None], k)[0]
        low, high = self.options.noise
        if high > 0:
            level = low + (high - low) * float(torch.rand((), generator=generator))
            y = y + level * torch.randn(y.shape, generator=generator)
        quality = None
        if self.options.jpeg is not None:
            low, high = self.options.jpeg
            quality = int(torch.randint(low, high + 1, (), generator=generator))
        return torch.from_numpy(as_saved(y, quality)).permute(2, 0, 1).float() / 255

    def _find(self) -> list[str]:
        """Paths (or LMDB keys) of the HR images, sorted; in training, files on disk are checked."""
        if self.io_backend['type'] == 'lmdb':
            paths = paths_from_lmdb(self.gt_folder)
        elif not os.path.isdir(self.gt_folder):
            raise FileNotFoundError(f'datasets ({self.name}).dataroot_gt: there is no folder {self.gt_folder!r}')
        elif self.opt.get('meta_info_file'):
            with open(self.opt['meta_info_file'], encoding='utf-8') as file:
                paths = [os.path.join(self.gt_folder, line.split(' ')[0].strip()) for line in file if line.strip()]
        else:
            paths = without_others(self.name, sorted(paths_from_folder(self.gt_folder)))
        if not paths:
            raise ValueError(f'datasets ({self.name}).dataroot_gt: {no_pictures(self.gt_folder)}')
        if self.is_train and self.io_backend['type'] == 'disk':
            for path in paths:
                self._check_file(path)  # now, not after hours of training
        return paths

    def _check_file(self, path: str) -> None:
        """Raise ValueError if a file is not an image or too small; reads only its header."""
        try:
            with Image.open(path) as image:
                width, height = image.size
        except OSError as error:
            raise ValueError(f'{path}: not an image ({type(error).__name__})') from error
        if min(width, height) < (self.options.gt_size or self.options.scale):
            raise ValueError(f'{path}: the image of {width} x {height} (width x height) is smaller than gt_size '
                             f'{self.options.gt_size}: remove it')
