"""Training that was stopped goes on with the same bits as if it had not been.

BasicSR's train program (1.4.2) resumes on a GPU only, begins the interrupted epoch anew, and draws crops from
generators whose state it does not save. :func:`patch` puts in its place

* a reader of training states that needs no GPU;
* a sampler that goes on within the epoch, and hands each index out with a seed of its own: what a data set draws for it
  then depends on nothing but ``manual_seed``, epoch and place. :class:`~.data.random_blur_dataset.RandomBlurDataset`
  makes use of it; to other data sets the index is an int.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from basicsr.data.data_sampler import EnlargedSampler
from basicsr.utils import check_resume

from .core.seeds import derived
from .core.tensor_files import load_tensors


class SeededIndex(int):
    """An index of a data set, with the ``seed`` of what is drawn for it."""

    seed: int

    def __new__(cls, index: int, seed: int) -> SeededIndex:
        self = super().__new__(cls, index)
        self.seed = seed
        return self

    def __reduce__(self) -> tuple:
        return SeededIndex, (int(self), self.seed)


class ResumableSampler(EnlargedSampler):
    """BasicSR's sampler, in the same order; see the module's docstring.

    Args:
        seed: ``manual_seed``.
        batch: images per iteration and process.
        resumed: ``epoch`` and ``iter`` of the training state, empty for a new run.
    """

    def __init__(self, dataset: Any, num_replicas: int, rank: int, ratio: int = 1, *, seed: int, batch: int,  # noqa: ANN401
                 resumed: Mapping[str, int]) -> None:
        super().__init__(dataset, num_replicas, rank, ratio)
        self.seed, self.batch, self.resumed = seed, batch, resumed

    def __iter__(self) -> Iterator[SeededIndex]:
        indices = list(super().__iter__())
        for place in range(self._done(), len(indices)):
            yield SeededIndex(indices[place], derived(self.seed, self.epoch, self.rank, place))

    def _done(self) -> int:
        """How many indices of this epoch were used before the stop."""
        if self.resumed.get('epoch') != self.epoch:
            return 0
        per_epoch = self.num_samples // self.batch  # the loader drops what fills no batch
        used = self.batch * (self.resumed['iter'] - self.epoch * per_epoch)
        return min(max(0, used), self.num_samples)  # the data set may have grown, or shrunk, since


def patch(train: ModuleType) -> None:
    """Make ``basicsr.train`` resume in our way."""
    run: dict[str, Any] = {'seed': 0, 'batch': 1, 'resumed': {}}

    def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
        loader = opt['datasets'].get('train') or {}
        gpus = 1 if opt['dist'] else max(1, int(opt['num_gpu']))
        run.update(seed=opt['manual_seed'], batch=int(loader.get('batch_size_per_gpu', 1)) * gpus)
        state = read_state(opt)
        run['resumed'] = {key: state[key] for key in ('epoch', 'iter')} if state else {}
        return state

    def sampler(dataset: Any, num_replicas: int, rank: int, ratio: int = 1) -> ResumableSampler:  # noqa: ANN401
        return ResumableSampler(dataset, num_replicas, rank, ratio, **run)

    train.load_resume_state = load_resume_state
    train.EnlargedSampler = sampler


def read_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """The training state that ``path.resume_state``, or with ``--auto_resume`` the newest of this run, holds.

    As in BasicSR, ``path`` then names that state and the weights that were saved with it.

    Raises:
        ValueError: it is no training state, or its weights are missing.
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
