"""Turns BasicSR's option dictionary into the core's configuration and the plug-in's options."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..checkpoints import EVERY
from ..core.config import KernelFusionConfig
from ..core.sections import check_interval, check_keys, must_be, section_of
from ..data.check import may_have_kernels
from ..files import check_folder_name


@dataclass(frozen=True)
class FileOptions:
    """Keys that all our models share: which files are read and written.

    Attributes:
        kernel_dir: the true kernels, for scores: a folder of NAME.npy, .mat, .txt, .csv, .png or other pictures (not
            JPEG), or one file for all images. A dataset's own ``dataroot_kernel``, or kernels that it yields
            (RandomBlurDataset), take precedence.
        kernel_tmpl: file name of a kernel in that folder, without extension; ``{name}`` is the image's name (the HR
            image's if the dataset has a ``filename_tmpl``), ``{number}`` the last number in it (im_13: 13). A
            dataset's own ``kernel_tmpl`` takes precedence.
        crop_gt: crop ground truth larger than LR x scale at the right and bottom, as BasicSR does, instead of
            reporting an error.
        sheet: write NAME_sheet.png.
    """

    SECTION: ClassVar[str] = 'kernelfusion'

    kernel_dir: str | None = None
    kernel_tmpl: str = '{name}'
    crop_gt: bool = False
    sheet: bool = True

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), hints[field.name]
            kinds = typing.get_args(kind) or (kind,)
            taken = bool in kinds if isinstance(value, bool) else isinstance(value, kinds)
            if not taken and not (float in kinds and type(value) is int):
                raise ValueError(must_be(f'{self.SECTION}.{field.name}', kind, value))


@dataclass(frozen=True)
class GlueOptions(FileOptions):
    """Keys of the section ``kernelfusion:`` that concern files; all others belong to the core.

    Attributes:
        save_prior: save PD's weights for every image, as NAME_pd.pth.
        prior_dir: folder to save them to and load them from; weights found there for the same image replace
            Phase 1. None: save to ``results/<name>/priors``, load none.
        known_kernel: false: blind. true: restore with the true kernel. A path: restore with the kernel there.
        deterministic: restrict cuDNN to deterministic algorithms.
        plot: write NAME_run.png.
        resume: resume an unfinished run with the same options; false: start from scratch.
        checkpoint_every: seconds between two checkpoints of the current image.
    """

    save_prior: bool = False
    prior_dir: str | None = None
    known_kernel: bool | str = False
    deterministic: bool = True
    plot: bool = True
    resume: bool = True
    checkpoint_every: float = EVERY

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval('kernelfusion.checkpoint_every', self.checkpoint_every, 0)


def file_options(kind: type[FileOptions], opt: Mapping[str, Any]) -> FileOptions:
    """The option file's section ``kind.SECTION`` as a ``kind`` object; an absent section gives the defaults.

    Raises:
        ValueError: not a section, an unknown key (the nearest known one is named), or a value of the wrong type.
    """
    section = section_of(opt, kind.SECTION)
    check_keys(kind.SECTION, section, {field.name for field in dataclasses.fields(kind)})
    return kind(**section)


def check_known_kernel(files: FileOptions, opt: Mapping[str, Any]) -> None:
    """Check ``known_kernel``, if the section has it.

    Raises:
        ValueError: it is a path that does not exist, or true although neither section nor data sets have kernels.
    """
    place = getattr(files, 'known_kernel', None)
    if place is True and not files.kernel_dir and not any(map(may_have_kernels, opt['datasets'].values())):
        raise ValueError(f'{files.SECTION}.known_kernel is true, but there are no kernels: give each data set a '
                         f'dataroot_kernel, the section {files.SECTION} a kernel_dir, or known_kernel a path')
    if isinstance(place, str) and not Path(place).expanduser().exists():
        raise ValueError(f'{files.SECTION}.known_kernel must be true, false or a path to kernels, but '
                         f'{place!r} does not exist')


def read_scale(opt: Mapping[str, Any]) -> int:
    """BasicSR's top-level ``scale``.

    Raises:
        ValueError: it is missing, or not a whole number of at least 1.
    """
    scale = opt.get('scale')
    if scale is None:
        raise ValueError("the option file needs 'scale: 4' (or 2, 3) at its top level")
    if isinstance(scale, bool) or not isinstance(scale, int) or scale < 1:
        raise ValueError(f"'scale' must be a whole number of at least 1, got {scale!r}")
    return scale


def parse_section(opt: Mapping[str, Any]) -> tuple[KernelFusionConfig, GlueOptions]:
    """Split the section ``kernelfusion:`` of an option file into the core's configuration and the plug-in's options.

    ``scale`` is BasicSR's top-level key; the section may repeat it but not contradict it.

    Raises:
        ValueError: an unknown key (the nearest known one is named), a value out of range, or no scale.
    """
    section = dict(section_of(opt, 'kernelfusion'))
    ours = {field.name for field in dataclasses.fields(GlueOptions)}
    check_keys('kernelfusion', section, ours | KernelFusionConfig.keys())
    if section.get('scale') is None:
        section['scale'] = read_scale(opt)
    glue = GlueOptions(**{key: section.pop(key) for key in ours & section.keys()})
    config = KernelFusionConfig.from_dict({key: plain(value) for key, value in section.items()})
    if opt.get('scale') is not None and read_scale(opt) != config.scale:
        raise ValueError(f"'scale' is {opt['scale']}, but 'kernelfusion.scale' is {config.scale}: remove the "
                         'latter')
    return config, glue


def check_names(opt: Mapping[str, Any]) -> None:
    """Check that the results of each data set go to a folder of its own.

    Raises:
        ValueError: two test data sets share a name, or a name is not a valid folder name.
    """
    keys: dict[str, str] = {}
    for key, dataset in (opt.get('datasets') or {}).items():
        name = (dataset or {}).get('name')
        if key.partition('_')[0] == 'train' or name is None:
            continue
        for part in str(name).split('/'):  # nested folders are allowed
            check_folder_name(f'datasets:{key}:name', part)
        if name in keys:
            raise ValueError(f'datasets: {keys[name]} and {key} are both named {name!r}, so their results would go '
                             'to the same folder: rename one of them')
        keys[name] = key


def plain(value: Any) -> Any:
    """Convert mappings of any type (YAML gives ordered ones) to dicts; None, an empty section, stays None."""
    return {key: plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value
