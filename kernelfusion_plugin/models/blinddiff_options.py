"""BlindDiffModel's part of BasicSR's option dictionary: settings, network and weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from ..core.blinddiff import BlindDiffConfig
from ..core.sections import check_keys, check_number, section_of
from .build import build
from .levels import places_of
from .networks import load_strictly
from .options import FileOptions


@dataclass(frozen=True)
class BlindDiffGlue(FileOptions):
    """Keys of the section ``blinddiff:`` that concern files; all others belong to :class:`BlindDiffConfig`.

    Attributes:
        batch: number of images of the same size sampled together; results do not depend on it.
        kernel_oracle: use the true kernel instead of the estimate in the gradient term, as an upper bound.
    """

    SECTION: ClassVar[str] = 'blinddiff'

    batch: int = 1
    kernel_oracle: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number('blinddiff.batch', self.batch, 1, whole=True)


BLINDDIFF = places_of(BlindDiffGlue.SECTION, BlindDiffGlue, BlindDiffConfig)
BLINDDIFF[BlindDiffGlue.SECTION].add('preset')


def parse_section(section: Mapping[str, Any]) -> tuple[BlindDiffConfig, BlindDiffGlue, str]:
    """Split the section ``blinddiff:`` into the core's configuration, the plug-in's options and the preset's name.

    Raises:
        ValueError: an unknown key (the nearest known one is named), or a value out of range.
    """
    ours = {field.name for field in dataclasses.fields(BlindDiffGlue)}
    check_keys('blinddiff', section, BLINDDIFF[BlindDiffGlue.SECTION])
    files = BlindDiffGlue(**{key: section[key] for key in section if key in ours})
    config = BlindDiffConfig.from_options({key: section[key] for key in section if key not in ours})
    return config, files, section.get('preset', 'paper')


def build_net(opt: Mapping[str, Any], scale: int) -> nn.Module:
    """Build ``network_g`` for the run's ``scale``.

    Raises:
        ValueError: the network or an argument is unknown, or its ``scale`` differs.
    """
    options = {'scale': scale, **(section_of(opt, 'network_g') or {'type': 'MCFormer'})}
    if options['scale'] != scale:
        raise ValueError(f"'network_g.scale' is {options['scale']}, but 'scale' is {scale}: remove the former")
    return build('network_g', options)


def load_into(net: nn.Module, path: str, key: str) -> None:
    """Strictly load the weights of a file: those under ``key``, else under ``params``, else the file itself.

    Raises:
        ValueError: the file does not exist, or holds weights of another network; one line.
    """
    if not Path(path).is_file():
        raise ValueError(f'path.pretrain_network_g: there is no file {path}. No weights come with this package: train '
                         'some (options/train_blinddiff_iso.yml), or name yours')
    load_strictly(net, path, (key, 'params'))
