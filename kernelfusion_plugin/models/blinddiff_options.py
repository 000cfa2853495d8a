"""What BlindDiffModel takes from BasicSR's option dictionary: its settings, its network, the network's weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from ..core.blinddiff import BlindDiffConfig
from ..core.sections import check_number, nearest
from .levels import places_of
from .options import FileOptions, build, section_of
from .priors import load_weights


@dataclass(frozen=True)
class BlindDiffGlue(FileOptions):
    """Keys of the section ``blinddiff:`` that concern files; all others are :class:`BlindDiffConfig`'s.

    Attributes:
        batch: images of one size that are sampled at the same time; results do not depend on it.
        kernel_oracle: take the true kernel in the gradient term, in place of the estimate: the upper bound of it.
    """

    SECTION: ClassVar[str] = 'blinddiff'

    batch: int = 1
    kernel_oracle: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number('blinddiff.batch', self.batch, 1, whole=True)


PLACES = places_of(BlindDiffGlue.SECTION, BlindDiffGlue, BlindDiffConfig)
PLACES[BlindDiffGlue.SECTION].add('preset')


def parse_section(section: Mapping[str, Any]) -> tuple[BlindDiffConfig, BlindDiffGlue, str]:
    """The section ``blinddiff:`` of an option file, divided: the core's configuration, ours, the preset's name.

    Raises:
        ValueError: an unknown key (with the nearest known one), or a value out of range.
    """
    ours, known = {field.name for field in dataclasses.fields(BlindDiffGlue)}, PLACES[BlindDiffGlue.SECTION]
    for key in section:
        if key not in known:
            raise ValueError(f"unknown option 'blinddiff.{key}'{nearest(str(key), known)}")
    files = BlindDiffGlue(**{key: section[key] for key in section if key in ours})
    config = BlindDiffConfig.from_options({key: section[key] for key in section if key not in ours})
    return config, files, section.get('preset', 'paper')


def build_net(opt: Mapping[str, Any], scale: int) -> nn.Module:
    """``network_g``; its ``scale`` is the run's.

    Raises:
        ValueError: the network is unknown or does not take an argument.
    """
    options = {'scale': scale, **(section_of(opt, 'network_g') or {'type': 'MCFormer'})}
    if options['scale'] != scale:
        raise ValueError(f"'network_g.scale' is {options['scale']}, but 'scale' is {scale}: leave the first one out")
    return build('network_g', options)


def load_into(net: nn.Module, path: str, key: str) -> None:
    """Weights of a file: those under ``key`` if it has them, else ``params`` or the file itself; strictly.

    Raises:
        ValueError: no such file, or weights of another network; one line.
    """
    if not Path(path).is_file():
        raise ValueError(f'path.pretrain_network_g: there is no file {path}: no weights come with this package; train '
                         'some (options/train_blinddiff_iso.yml), or say where yours are')
    state, _ = load_weights(path, (key, 'params'))
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        reason = ' '.join(str(error).split())
        raise ValueError(f'{path}: weights of another network than network_g says: {reason[:300]}') from None
