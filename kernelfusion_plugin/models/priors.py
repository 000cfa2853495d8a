"""PD's weights on disk: one file per image, reused for that image only."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..atomic import write_atomically
from ..core.config import KernelFusionConfig
from ..core.phase1 import PHASES, lacking_weights, split
from ..core.tensor_files import load_tensors
from ..core.texture_prior import weights_digest


def image_digest(y: Tensor) -> str:
    """sha256 of an LR image's size and values, which identifies the image that weights belong to."""
    data = y.detach().cpu().contiguous()
    return hashlib.sha256(f'{tuple(data.shape)}'.encode() + data.numpy().tobytes()).hexdigest()


def load_weights(path: str | os.PathLike[str], keys: tuple[str, ...] = ('params',)) -> tuple[dict[str, Tensor], dict]:
    """Load a state dict (bare, or under the first of ``keys`` present, as BasicSR saves it) and the remaining entries.

    Code in the file is never run (weights_only).

    Raises:
        ValueError: the file does not hold a state dict; one line.
    """
    content = load_tensors(path, 'a file of weights')
    key = next((key for key in keys if key in content), None) if isinstance(content, dict) else None
    state = content if key is None else content[key]
    if not state or not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f'{path}: not a file of weights: expected a state dict, or one under the key '
                         f'{" or ".join(keys)}')
    state = {name.removeprefix('module.'): value for name, value in state.items()}
    return state, {} if key is None else {name: content[name] for name in content if name != key}


class PriorStore:
    """Folder of PD weights: NAME_pd.pth, or NAME_<digest>_pd.pth if the former belongs to another image.

    A file holds ``params`` (state dict), ``image`` (digest of the LR image) and ``phases``, which says how each
    network was trained: ``settings``, ``seed`` and ``textures`` (digest of the texture prior that was tuned). A file
    without ``image`` is assumed to belong to the image of its name.
    """

    LONGEST_ENDING: ClassVar[str] = '_00000000_pd.pth'  # after the image's name

    def __init__(self, folder: str | os.PathLike[str], reuse: bool = True) -> None:
        self.folder = Path(folder).expanduser()
        self.reuse = reuse

    def at_hand(self, name: str, y: Tensor, config: KernelFusionConfig, logger: logging.Logger,
                kernel_known: bool = False) -> dict[str, Tensor] | None:
        """Saved weights of this image, to replace Phase 1; None if there are none or ``reuse`` is off.

        They are used even if they were trained with settings other than ``config``'s; the log says so, and which of
        the run's networks they lack.
        """
        try:
            found = self.find(name, y) if self.reuse else None
        except ValueError as error:
            logger.warning(f'{error}; running Phase 1 instead')
            return None
        if found is None:
            return None
        state, about, path = found
        lacking = ' and the '.join(PHASES[phase].label for phase in lacking_weights(state, config, kernel_known))
        logger.info(f'{name}: {path} lacks weights of the {lacking}: training now' if lacking else
                    f'{name}: Phase 1 is skipped: its weights are loaded from {path}')
        other = _differences(state, about, config)
        if other:
            logger.warning(f'{path}: trained with settings that differ from this run: {", ".join(other)}')
        return state

    def find(self, name: str, y: Tensor) -> tuple[dict[str, Tensor], dict, Path] | None:
        """Weights of this image, the other entries of their file, and its path; None if there are none.

        Raises:
            ValueError: a file of this name does not hold weights.
        """
        digest = image_digest(y)
        for path in self._candidates(name, digest):
            if path.exists():
                state, about = load_weights(path)
                if about.get('image', digest) == digest:
                    return state, about, path
        return None

    def save(self, name: str, y: Tensor, state: dict[str, Tensor], config: KernelFusionConfig,
             fitted: Iterable[str] = PHASES) -> Path:
        """Save the weights, never overwriting those of another image.

        The phases ``fitted`` are recorded as trained with ``config``; the others keep the existing file's record.
        """
        digest = image_digest(y)
        plain, own = self._candidates(name, digest)
        path, about = plain, _about(plain)
        if plain.exists() and about.get('image') != digest:
            path, about = own, _about(own)
        there = split(state)
        new = {phase: _training(phase, config) for phase in fitted if phase in there}
        phases = {**_phases(state, about), **new}
        content = {'params': {key: value.cpu() for key, value in state.items()}, 'image': digest, 'phases': phases}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: torch.save(content, file))
        return path

    def _candidates(self, name: str, digest: str) -> tuple[Path, Path]:
        return self.folder / f'{name}_pd.pth', self.folder / f'{name}_{digest[:8]}_pd.pth'


def _training(phase: str, config: KernelFusionConfig) -> dict[str, Any]:
    """How a run with ``config`` trains the network of a phase."""
    section = PHASES[phase].section
    textures = weights_digest(config.texture_weights) if section == 'tuning' else None
    return {'settings': dataclasses.asdict(getattr(config, section)), 'seed': config.seed, 'textures': textures}


def _phases(state: dict[str, Tensor], about: dict) -> dict[str, dict[str, Any]]:
    """How the networks of ``state`` were trained, according to their file; networks without a record are omitted.

    Files of version 0.8 and earlier have one record for all networks.
    """
    if 'phases' in about or about.keys().isdisjoint(('prior', 'tuning')):
        return about.get('phases', {})
    return {phase: {'settings': about.get(PHASES[phase].section, {}),
                    **{key: about[key] for key in ('seed', 'textures') if key in about}} for phase in split(state)}


def _differences(state: dict[str, Tensor], about: dict, config: KernelFusionConfig) -> list[str]:
    """Settings of the saved weights that differ from those of a run with ``config``."""
    other = []
    for phase, trained in _phases(state, about).items():
        section, wanted = PHASES[phase].section, _training(phase, config)
        if trained.get('seed', config.seed) != config.seed:
            other.append(f'seed {trained["seed"]}')
        if section == 'tuning' and trained.get('textures', weights_digest()) != wanted['textures']:
            other.append('texture_weights')
        other += [f'{section}.{name} {trained["settings"].get(name, "unknown")}'
                  for name, value in wanted['settings'].items() if trained['settings'].get(name) != value]
    return list(dict.fromkeys(other))


def _about(path: Path) -> dict:
    """The entries of a weights file besides the weights; {} if it is missing or invalid."""
    try:
        return load_weights(path)[1]
    except ValueError:
        return {}
