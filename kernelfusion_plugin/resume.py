"""Makes resumed training bit-identical to uninterrupted training.

BasicSR's train program (1.4.2) resumes only on a GPU, restarts the interrupted epoch, and draws crops from generators
whose state it does not save. It also ends before ``total_iter`` where an epoch is shorter than it counts: it drops an
incomplete batch (with fewer images than a batch, it ends untrained), and counts only one of several GPUs of a process.
:func:`patch` replaces

* the reader of training states by one that needs no GPU;
* the sampler by one that continues within the epoch, fills an epoch of as many batches as BasicSR counts, and gives
  each index a seed of its own, so that what a data set draws for it depends only on ``manual_seed``, epoch, rank and
  position. Used by :class:`~.data.random_blur_dataset.RandomBlurDataset`; for other data sets the index is a plain int.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from basicsr.data.data_sampler import EnlargedSampler
from basicsr.utils import check_resume

from .core.seeds import derived
from .core.tensor_files import load_tensors


class SeededIndex(int):
    """A data set index with the ``seed`` of the random draws for it."""

    seed: int

    def __new__(cls, index: int, seed: int) -> SeededIndex:
        self = super().__new__(cls, index)
        self.seed = seed
        return self

    def __reduce__(self) -> tuple:
        return SeededIndex, (int(self), self.seed)


class ResumableSampler(EnlargedSampler):
    """BasicSR's sampler, with epochs of whole batches; see the module docstring.

    Args:
        seed: ``manual_seed``.
        batch: images per iteration and GPU.
        gpus: GPUs of each process.
        resumed: ``epoch`` and ``iter`` of the training state; empty for a new run.
    """

    def __init__(self, dataset: Any, num_replicas: int, rank: int, ratio: int = 1, *, seed: int, batch: int,  # noqa: ANN401
                 gpus: int, resumed: Mapping[str, int]) -> None:
        super().__init__(dataset, num_replicas, rank, ratio)
        self.seed, self.batch, self.resumed = seed, batch * gpus, resumed
        self.per_epoch = math.ceil(len(dataset) * ratio / (batch * num_replicas))  # iterations, as BasicSR counts them
        self.num_samples = self.per_epoch * self.batch
        self.total_size = self.num_samples * num_replicas

    def __iter__(self) -> Iterator[SeededIndex]:
        indices = list(super().__iter__())
        for place in range(self._done(), len(indices)):
            yield SeededIndex(indices[place], derived(self.seed, self.epoch, self.rank, place))

    def _done(self) -> int:
        """Number of indices of this epoch used before the stop."""
        if self.resumed.get('epoch') != self.epoch:
            return 0
        used = self.batch * (self.resumed['iter'] - self.epoch * self.per_epoch)
        return min(max(0, used), self.num_samples)  # the data set may have changed size since


def patch(train: ModuleType) -> None:
    """Patch ``basicsr.train`` with our way of resuming."""
    run: dict[str, Any] = {'seed': 0, 'batch': 1, 'gpus': 1, 'resumed': {}}

    def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
        loader = opt['datasets'].get('train') or {}
        gpus = 1 if opt['dist'] else max(1, int(opt['num_gpu']))
        run.update(seed=opt['manual_seed'], batch=int(loader.get('batch_size_per_gpu', 1)), gpus=gpus)
        state = read_state(opt)
        run['resumed'] = {key: state[key] for key in ('epoch', 'iter')} if state else {}
        return state

    def sampler(dataset: Any, num_replicas: int, rank: int, ratio: int = 1) -> ResumableSampler:  # noqa: ANN401
        return ResumableSampler(dataset, num_replicas, rank, ratio, **run)

    train.load_resume_state = load_resume_state
    train.EnlargedSampler = sampler


def read_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """Read the training state in ``path.resume_state`` or, with ``--auto_resume``, the latest of this run.

    As in BasicSR, ``opt['path']`` is updated to name that state and the weights saved with it.

    Raises:
        ValueError: it is not a training state, or its weights are missing.
    """
    path = opt['path'].get('resume_state')
    if opt.get('auto_resume'):
        states = [file for file in Path(opt['path']['training_states']).glob('*.state') if file.stem.isdigit()]
        path = max(states, key=lambda file: int(file.stem)) if states else None
    if not path:
        return None
    if not Path(path).exists():
        raise ValueError(f'path.resume_state: there is no file {path}')
    state = load_tensors(path, 'a training state')
    if not isinstance(state, dict) or not {'epoch', 'iter', 'optimizers', 'schedulers'} <= state.keys():
        raise ValueError(f'{path}: not a training state of BasicSR')
    opt['path']['resume_state'] = str(path)
    check_resume(opt, state['iter'])
    weights = [opt['path'][f'pretrain_{key}'] for key in opt if key.startswith('network_')]
    missing = [file for file in weights if file and not Path(file).is_file()]
    if missing:
        raise ValueError(f'{path}: the weights of this training state are missing: {", ".join(missing)}')
    return state
