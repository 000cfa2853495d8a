"""KernelFusionConfig: presets, option files, and errors that name what is wrong."""

import dataclasses
import json
from pathlib import Path

import pytest

from kernelfusion_plugin.core.config import PRESETS, SOLVERS, KernelFusionConfig
from kernelfusion_plugin.core.em_config import EmConfig
from kernelfusion_plugin.core.joint import JointConfig
from kernelfusion_plugin.core.patch_prior import PriorConfig
from kernelfusion_plugin.core.texture_prior import T_MAX

read = KernelFusionConfig.from_dict


def refused(options, *words):
    with pytest.raises(ValueError) as error:
        read(options)
    message = str(error.value)
    assert '\n' not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize('preset', PRESETS)
@pytest.mark.parametrize('solver', SOLVERS)
def test_to_dict_and_back_is_the_identity(preset, solver):
    config = KernelFusionConfig(preset=preset, solver=solver, scale=3, seed=7, border='reflect')
    plain = json.loads(json.dumps(config.to_dict()))
    assert plain == config.to_dict() and read(plain) == config
    assert {plain[key] for key in ('preset', 'solver', 'border')} == {preset, solver, 'reflect'}
    assert (plain['scale'], plain['seed'], plain['kernel_size']) == (3, 7, 18)
    changed = dataclasses.replace(config, em=EmConfig(sketch_passes=2), prior=PriorConfig(t_max=None, steps=5),
                                  kernel_size=31)
    assert read(changed.to_dict()) == changed != config


def test_nothing_given_is_the_default():
    assert read({}) == KernelFusionConfig()
    assert read({'prior': {}, 'em': {}}) == KernelFusionConfig()


@pytest.mark.parametrize('preset', PRESETS)
def test_a_preset_fills_what_is_not_given(preset):
    config = read({'preset': preset})
    assert config == KernelFusionConfig(preset=preset)
    for section, value in PRESETS[preset].items():
        assert getattr(config, section) == value
    mine = PriorConfig(steps=3)
    config = KernelFusionConfig(preset=preset, prior=mine)
    assert config.prior is mine and config.em == PRESETS[preset]['em']


def test_the_papers_preset_is_the_papers():
    prior = KernelFusionConfig(preset='paper').prior
    assert (prior.steps, prior.channels, prior.crop, prior.lr) == (600_000, 128, 64, 1e-4)
    assert (prior.t_max, prior.ema, prior.timesteps) == (None, 0, 1000)
    assert KernelFusionConfig(preset='paper-100k').prior == dataclasses.replace(prior, steps=100_000)
    joint = KernelFusionConfig(preset='paper').joint
    assert (joint.n_iter, joint.n_iter_first, joint.lr, joint.lr_final) == (20, 100, 1e-4, 1e-5)
    assert KernelFusionConfig().kernel_size == 24


def test_keys_go_over_the_preset_wherever_they_stand():
    quick = PRESETS['quick']['prior']
    for options in ({'preset': 'quick', 'prior': {'steps': 100}}, {'prior': {'steps': 100}, 'preset': 'quick'}):
        config = read(options)
        assert config.prior == dataclasses.replace(quick, steps=100)
        assert config.em == PRESETS['quick']['em'] and config.preset == 'quick'
    assert quick.steps != 100 and PRESETS['quick']['prior'] is quick
    both = read({'em': {'coarse_passes': 3}, 'joint': {'n_iter': 5}, 'solver': 'joint'})
    assert (both.em.coarse_passes, both.joint.n_iter, both.solver) == (3, 5, 'joint')


def test_numbers_may_come_as_strings():
    """YAML reads 1e-4 as a string."""
    config = read({'scale': '3', 'seed': '12', 'preset': 'paper', 'kernel_size': '21',
                   'prior': {'lr': '1e-4', 'steps': '600_000', 'lr_end': '1e-6'}, 'em': {'final_noise': ' 0.02 '}})
    assert (config.scale, config.seed, config.kernel_size) == (3, 12, 21)
    assert (config.prior.lr, config.prior.steps, config.prior.lr_end) == (1e-4, 600_000, 1e-6)
    assert config.em.final_noise == 0.02
    assert type(config.scale) is type(config.prior.steps) is int and type(config.prior.lr) is float
    assert read({'prior': {'steps': '1e4'}}).prior.steps == 10_000
    assert type(read({'prior': {'steps': 1e4}}).prior.steps) is int
    assert type(read({'em': {'prior_weight': 2}}).em.prior_weight) is float


def test_null_where_it_means_something():
    for nothing in (None, 'None', 'null', '~'):
        config = read({'scale': 2, 'kernel_size': nothing, 'preset': 'quick', 'prior': {'t_max': nothing}})
        assert config.kernel_size == 12 and config.prior.t_max is None
    refused({'scale': None}, "'scale'", 'whole number', 'None')
    refused({'prior': {'lr': None}}, "'prior.lr'", 'a number')
    refused({'solver': None}, "'solver'", 'text')
    refused({'preset': None}, 'preset', 'quick')


@pytest.mark.parametrize(('options', 'words'), [
    ({'prior': {'stepz': 1}}, ["'prior.stepz'", "'steps'", 'Known: ', 'channels']),
    ({'em': {'fine_noise_strat': 1}}, ["'em.fine_noise_strat'", "'fine_noise_start'"]),
    ({'joint': {'niter': 1}}, ["'joint.niter'", "'n_iter'"]),
    ({'kernal_size': 24}, ["'kernal_size'", "'kernel_size'"]),
    ({'Scale': 4}, ["'Scale'", "'scale'"]),
    ({4: 2}, ["'4'", 'Known: ']),
    ({'kernel': 1}, ["'kernel'", "'kernel_size'"]),
])
def test_an_unknown_option_names_the_nearest(options, words):
    refused(options, 'unknown option', *words)


@pytest.mark.parametrize('options', [None, 'quick', ['scale'], 4])
def test_the_whole_must_be_a_mapping(options):
    refused(options, 'section of options', repr(options))


def test_without_a_near_name_none_is_made_up():
    for name in ('zzzzzz', 'foo'):  # noise_floor is not what foo means
        with pytest.raises(ValueError, match=rf"unknown option 'em\.{name}'\. Known: centre_error, "):
            read({'em': {name: 1}})


@pytest.mark.parametrize('section', ['prior', 'em', 'joint'])
@pytest.mark.parametrize('value', [5, 'quick', [('steps', 1)], True])
def test_sections_must_be_mappings(section, value):
    refused({section: value}, f"'{section}'", 'section', repr(value))
    with pytest.raises(ValueError, match=f"'{section}'"):
        KernelFusionConfig(**{section: value})
    assert read({section: None, 'preset': 'quick'}) == KernelFusionConfig(preset='quick')


def test_by_name_it_is_as_from_a_file():
    options = {'scale': '3', 'seed': 2.0, 'preset': 'quick', 'em': {'fine_passes': '7'}, 'tuning': {'steps': 5},
               'texture_weights': Path('~/own.pt')}
    config = KernelFusionConfig(**options)
    assert config == read(options) and config == read(config.to_dict())
    assert (config.scale, config.seed, config.kernel_size) == (3, 2, 18) and type(config.seed) is int
    assert config.em.fine_passes == 7 and config.em.steps == KernelFusionConfig(preset='quick').em.steps
    assert config.tuning.steps == 5 and config.texture_weights == str(Path.home() / 'own.pt')
    for wrong, words in (({'scale': 2.5}, "'scale' must be a whole number"), ({'seed': 'x'}, "'seed' must be a whole"),
                         ({'kernel_size': [24]}, "'kernel_size'"), ({'em': {'fine_pass': 1}}, "'fine_passes'")):
        with pytest.raises(ValueError, match=words):
            KernelFusionConfig(**wrong)


@pytest.mark.parametrize(('options', 'name', 'word'), [
    ({'scale': True}, 'scale', 'whole'), ({'seed': False}, 'seed', 'whole'),
    ({'prior': {'lr': True}}, 'prior.lr', 'a number'), ({'prior': {'t_max': True}}, 'prior.t_max', 'whole'),
    ({'scale': 2.5}, 'scale', 'whole'),
    ({'scale': 'four'}, 'scale', 'whole'), ({'scale': '2.5'}, 'scale', 'whole'), ({'scale': [4]}, 'scale', 'whole'),
    ({'seed': 'nan'}, 'seed', 'whole'), ({'seed': 'inf'}, 'seed', 'whole'), ({'seed': ''}, 'seed', 'whole'),
    ({'em': {'ridge': 'much'}}, 'em.ridge', 'a number'), ({'em': {'fine_passes': {}}}, 'em.fine_passes', 'whole'),
    ({'em': {'kernel_prior': 1}}, 'em.kernel_prior', 'text'),
    ({'solver': 1}, 'solver', 'text'), ({'border': True}, 'border', 'text'),
    ({'prior': {'precision': 32}}, 'prior.precision', 'text'),
])
def test_wrong_types_are_refused(options, name, word):
    refused(options, f"'{name}'", f'must be {word}' if word == 'a number' else word)


@pytest.mark.parametrize(('options', 'words'), [
    ({'preset': 'fast'}, ['preset', 'quick, balanced', "'fast'"]),
    ({'preset': ['quick']}, ['preset', 'quick, balanced']),
    ({'solver': 'adam'}, ['solver', 'em, joint', "'adam'"]),
    ({'border': 'mirror'}, ['border', 'valid, reflect, replicate, zeros', "'mirror'"]),
    ({'scale': 1}, ['scale', '2 and 8', '1']), ({'scale': 9}, ['scale', '2 and 8', '9']),
    ({'kernel_size': 7}, ['kernel_size', '8', '64', '7']), ({'kernel_size': 65}, ['kernel_size', '64', '65']),
    ({'kernel_size': 0}, ['kernel_size', '0']),
    ({'scale': 8, 'kernel_size': 15}, ['kernel_size', '16', '15']),
    ({'em': {'steps': 0}}, ['em.steps']), ({'em': {'fine_noise_end': 'nan'}}, ['em.fine_noise_end']),
    ({'em': {'kernel_prior': 'both'}}, ['em.kernel_prior', 'textures, internal', "'both'"]),
    ({'em': {'final_prior': 'none'}}, ['em.final_prior', 'tuned, both, textures, internal', "'none'"]),
    ({'prior': {'channels': 7}}, ['prior.channels']), ({'joint': {'n_iter': 0}}, ['joint.n_iter']),
])
def test_values_out_of_range_are_refused(options, words):
    refused(options, *words)


def test_the_kernel_is_six_lr_pixels_wide_unless_told():
    for scale in range(2, 9):
        assert KernelFusionConfig(scale=scale).kernel_size == read({'scale': scale}).kernel_size == 6 * scale
        for size in (2 * scale, 64):
            assert read({'scale': scale, 'kernel_size': size}).kernel_size == size


NO_TEXTURES = {'kernel_prior': 'internal', 'final_prior': 'internal'}


@pytest.mark.parametrize(('options', 'words'), [
    ({'prior': {'t_max': 300}, 'em': {'kernel_prior': 'internal'}}, ['em.t_start', 'prior.t_max = 300']),
    ({'prior': {'t_max': 150}, 'em': {'final_prior': 'both'}}, ['em.final_t_start', 'prior.t_max = 150']),
    ({'preset': 'quick', 'em': {'final_t_start': 400}}, ['em.final_t_start', 'texture', '= 400', '400']),
    ({'prior': {'t_max': None, 'timesteps': 250}, 'em': NO_TEXTURES}, ['em.t_start', 'prior.timesteps = 250']),
    ({'solver': 'joint', 'prior': {'t_max': 200}}, ['joint.t_start', 'prior.t_max = 200']),
])
def test_levels_that_the_prior_is_not_trained_on_are_refused(options, words):
    refused(options, *words)


@pytest.mark.parametrize(('em', 'names'), [
    ({}, ['t_start', 'final_t_start']), ({'kernel_prior': 'internal'}, ['final_t_start']),
    ({'final_prior': 'internal'}, ['t_start']), ({'final_prior': 'textures'}, ['t_start', 'final_t_start']),
    ({'final_prior': 'both'}, ['t_start', 'final_t_start'])])
def test_what_does_not_fit_the_texture_prior_is_refused(em, names):
    """Its schedule, and its levels where it is used; said before Phase 1."""
    assert read({'em': em}).uses_textures
    refused({'prior': {'timesteps': 500}, 'em': em}, 'prior.timesteps must be 1000', 'texture', '500', 'internal')
    for name in names:
        for level in (T_MAX, 999):
            refused({'prior': {'t_max': None}, 'em': {**em, name: level}}, f'em.{name}', 'texture', '400', str(level))
        assert read({'prior': {'t_max': None}, 'em': {**em, name: T_MAX - 1}}).uses_textures


def test_without_the_texture_prior_its_bounds_do_not_count():
    config = read({'prior': {'t_max': None, 'timesteps': 500}, 'em': {**NO_TEXTURES, 't_start': 499}})
    assert config.em.t_start == 499 and not config.uses_textures
    refused({'prior': {'t_max': None, 'timesteps': 500}, 'em': {**NO_TEXTURES, 't_start': 500}},
            'em.t_start', 'prior.timesteps = 500')
    joint = read({'solver': 'joint', 'prior': {'timesteps': 500, 't_max': None}, 'joint': {'t_start': 450}})
    assert not joint.uses_textures and joint.em.kernel_prior == 'textures'


def test_only_the_chosen_solver_must_fit_the_prior():
    assert read({'prior': {'t_max': 200}, 'em': {'t_start': 199, 'final_t_start': 150}}).joint.t_start > 200
    assert read({'prior': {'t_max': 301}}).em.t_start == 300  # the bound itself


def test_the_input_is_not_changed_and_the_config_is_frozen():
    options = {'preset': 'quick', 'prior': {'steps': '5'}}
    config = read(options)
    assert options == {'preset': 'quick', 'prior': {'steps': '5'}}
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.scale = 2
    assert isinstance(config.joint, JointConfig) and hash(config) == hash(read(options))
