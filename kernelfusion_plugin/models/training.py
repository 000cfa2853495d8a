"""Checks the options of a training run, as far as possible before BasicSR makes folders and data sets."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from basicsr.losses import LOSS_REGISTRY
from basicsr.models.base_model import BaseModel
from basicsr.utils.registry import DATASET_REGISTRY
from torch import nn

from ..core.faults import first_line
from ..core.sections import check_interval, check_keys, check_number, nearest, section_of
from ..data.check import KEYS as KNOWN_SETS
from ..data.random_blur_dataset import RandomBlurDataset
from ..option_checks import is_our_model

LOSSES = ('pixel_opt', 'perceptual_opt', 'kernel_opt')
KEYS = ('total_iter', 'warmup_iter', 'ema_decay', 'optim_g', 'scheduler', *LOSSES)  # train options of all our models
PREFETCH = (None, 'cpu', 'cuda')


def check_training(model: type[BaseModel], opt: Mapping[str, Any]) -> None:
    """Refuse options on which training any of our models would fail, at its start or at its very end.

    Args:
        model: ours, or one derived from it, which may know more optimizers, schedules and options.

    Raises:
        ValueError: in one line that names the option.
    """
    train, logger = section_of(opt, 'train'), section_of(opt, 'logger')
    if is_our_model(opt['model_type']):
        check_keys('train', train, KEYS)
    missing = [key for key in ('optim_g', 'scheduler', 'total_iter') if train.get(key) is None]
    if missing:
        raise ValueError(f"'train' needs {', '.join(missing)}")
    for key in ('optim_g', 'scheduler'):
        if not isinstance(section_of(train, key).get('type'), str):
            raise ValueError(f"'train.{key}' needs a type")
    check_number('train.total_iter', train['total_iter'], 1)
    check_number('train.warmup_iter', train.get('warmup_iter', -1), -1)
    check_number('train.ema_decay', train.get('ema_decay', 0), 0, 1)
    _try_schedule(model, train)
    for key in LOSSES:
        if train.get(key):
            _try_loss(f'train.{key}', train[key])
    for key in ('print_freq', 'save_checkpoint_freq'):
        check_interval(f'logger.{key}', logger.get(key), 1)
    if section_of(opt, 'val').get('val_freq') is not None:
        check_interval('val.val_freq', opt['val']['val_freq'], 1)
    _check_loader(opt['datasets'])


def pairs_kernel_size(opt: Mapping[str, Any], learner: str) -> int | None:
    """Side of the kernels that come with the training pairs; None: known only once they are loaded.

    Args:
        learner: what learns kernels, for the message.

    Raises:
        ValueError: the pairs come without kernels.
    """
    pairs = opt['datasets']['train']
    if pairs['type'] == 'RandomBlurDataset':
        return RandomBlurDataset.read_options({**pairs, 'scale': opt['scale']}, 'datasets:train')[1].size
    if DATASET_REGISTRY.get(pairs['type']) in KNOWN_SETS:
        raise ValueError(f'datasets:train: {learner} learns kernels too, which RandomBlurDataset gives with its pairs, '
                         f'and {pairs["type"]} does not')
    return None


def _check_loader(datasets: Mapping[str, Mapping[str, Any]]) -> None:
    """Check the options of BasicSR's loader of training pictures."""
    unread = [key for key in datasets if key != 'train' and key.partition('_')[0] != 'val']
    if 'train' not in datasets or unread:
        raise ValueError(f'datasets: a training has one data set, train, and those of its validation, val_1 …; there '
                         f'{"is" if len(datasets) == 1 else "are"} {", ".join(datasets)}')
    options, where = datasets['train'], 'datasets:train'
    check_number(f'{where}:batch_size_per_gpu', options.get('batch_size_per_gpu'), 1, whole=True)
    check_number(f'{where}:num_worker_per_gpu', options.get('num_worker_per_gpu'), 0, whole=True)
    check_number(f'{where}:dataset_enlarge_ratio', options.get('dataset_enlarge_ratio', 1), 1)
    mode = options.get('prefetch_mode')
    if mode not in PREFETCH:
        raise ValueError(f'{where}:prefetch_mode must be ~, cpu or cuda, got {mode!r}')
    if mode == 'cuda' and options.get('pin_memory') is not True:
        raise ValueError(f'{where}:prefetch_mode: cuda needs pin_memory: true')


def _try_schedule(model: type[BaseModel], train: Mapping[str, Any]) -> None:
    """Try the model's optimizer and schedule on a single weight, up to the last iteration."""
    trial = object.__new__(model)  # for two of its methods only, without making folders
    trial.opt, trial.optimizers, trial.schedulers = {'train': copy.deepcopy(dict(train))}, [], []
    options, last = trial.opt['train']['optim_g'], int(train['total_iter'])
    check_number('train.optim_g.lr', options.get('lr'), 0)
    part, at = 'optim_g', ''
    try:
        trial.optimizers.append(trial.get_optimizer(options.pop('type'), [nn.Parameter(torch.zeros(1))], **options))
        part = 'scheduler'
        trial.setup_schedulers()
        at = f' has no learning rate at iteration {last}'
        trial.schedulers[0].last_epoch = last - 1
        trial.schedulers[0].get_lr()
    except Exception as error:  # noqa: BLE001  (BasicSR's and torch's code on the user's values)
        raise ValueError(f"'train.{part}' ({train[part]['type']}){at}: {first_line(error)}") from error


def _try_loss(where: str, options: Any) -> None:  # noqa: ANN401
    """Make the loss, unless it loads a network: then only the names of its arguments are checked."""
    if not isinstance(options, Mapping):
        raise ValueError(f"'{where}' must be a section with a type, got {options!r}")
    arguments = copy.deepcopy(dict(options))
    kind = arguments.pop('type', None)
    if kind not in LOSS_REGISTRY:
        raise ValueError(f"unknown loss {kind!r} in '{where}'{nearest(str(kind), LOSS_REGISTRY.keys())}")
    make = LOSS_REGISTRY.get(kind)
    try:
        inspect.signature(make).bind(**arguments)
        if kind != 'PerceptualLoss':
            make(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"'{where}' ({kind}): {first_line(error)}") from error
