"""Weights on disk: what the log says of those that were trained in another way."""

import dataclasses
import logging

import pytest
import torch

from kernelfusion_plugin import KernelFusionConfig
from kernelfusion_plugin.core.patch_prior import PriorConfig
from kernelfusion_plugin.core.texture_prior import TuningConfig
from kernelfusion_plugin.models.priors import PriorStore

CONFIG = KernelFusionConfig(prior=PriorConfig(channels=4, steps=3), tuning=TuningConfig(steps=7), seed=5)
Y = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
WEIGHTS = {'prior': {'head.weight': torch.ones(2)}, 'tuned': {'tuned.head.weight': torch.ones(2)}}


def said(folder, config, caplog):
    """The warnings of a run of ``config``, which uses the weights whatever they are."""
    caplog.clear()
    with caplog.at_level(logging.INFO, 'priors'):
        assert PriorStore(folder).at_hand('a', Y, config, logging.getLogger('priors')) is not None
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize('kinds', [('prior',), ('tuned',), ('prior', 'tuned')])
def test_weights_trained_in_another_way_are_spoken_of(kinds, tmp_path, caplog):
    """By the settings of those weights that are there."""
    state = {name: value for kind in kinds for name, value in WEIGHTS[kind].items()}
    PriorStore(tmp_path).save('a', Y, state, CONFIG)
    assert not said(tmp_path, CONFIG, caplog)
    for changed, kind, words in (
            ({'prior': dataclasses.replace(CONFIG.prior, steps=4)}, 'prior', 'prior.steps 3'),
            ({'tuning': dataclasses.replace(CONFIG.tuning, lr=1e-3, turns=False)}, 'tuned',
             f'tuning.turns True, tuning.lr {CONFIG.tuning.lr}'),
            ({'seed': 6}, None, 'seed 5')):
        told = said(tmp_path, dataclasses.replace(CONFIG, **changed), caplog)
        assert [words in line for line in told] == ([True] if kind is None or kind in kinds else [])


def test_of_weights_that_were_added_only_they_are_of_the_later_settings(tmp_path, caplog):
    store, later = PriorStore(tmp_path), dataclasses.replace(CONFIG, seed=6, prior=dataclasses.replace(
        CONFIG.prior, steps=4))
    store.save('a', Y, WEIGHTS['prior'], CONFIG, ['prior'])
    half = {f'half.{name}': value for name, value in WEIGHTS['prior'].items()}
    store.save('a', Y, {**WEIGHTS['prior'], **half}, later, ['half'])
    for config, words in ((CONFIG, 'seed 6, prior.steps 4'), (later, 'seed 5, prior.steps 3')):
        (line,) = said(tmp_path, config, caplog)
        assert line.endswith(words)


def test_what_an_older_version_does_not_say_is_unknown(tmp_path, caplog):
    """It said of all networks together how they were trained."""
    path = PriorStore(tmp_path).save('a', Y, WEIGHTS['tuned'], CONFIG)
    old = {'params': WEIGHTS['tuned'], 'image': torch.load(path, weights_only=True)['image'], 'seed': CONFIG.seed,
           'prior': dataclasses.asdict(CONFIG.prior), 'tuning': dataclasses.asdict(CONFIG.tuning)}
    torch.save(old, path)
    assert not said(tmp_path, CONFIG, caplog)
    del old['tuning']
    torch.save(old, path)
    (line,) = said(tmp_path, CONFIG, caplog)
    assert 'tuning.turns unknown' in line and 'prior.' not in line
    torch.save({'params': WEIGHTS['tuned']}, path)  # of anybody
    assert not said(tmp_path, CONFIG, caplog)
