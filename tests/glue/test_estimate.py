"""The time that a run is said to take; what ``restore`` says of it is in ``test_restore_command``."""

import pytest
import torch
from glue_helpers import TINY_EM, TINY_PRIOR

from kernelfusion_plugin import KernelFusionConfig, restore
from kernelfusion_plugin.estimate import measure_pace

TOY = {'preset': 'quick', 'scale': 2, 'prior': TINY_PRIOR, 'em': TINY_EM}


def noise(height, width):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.slow  # it measures time, which a busy machine spoils
@pytest.mark.parametrize('changes', [{}, {'solver': 'joint'}], ids=['em', 'joint'])
def test_the_estimate_is_within_a_factor_of_2(changes):
    """Of a picture four times the size of the one that was timed; a busy machine may need a second look."""
    config = KernelFusionConfig.from_dict({**TOY, 'prior': {'channels': 16, 'steps': 60},
                                           'em': {**TINY_EM, 'sketch_passes': 3, 'fine_passes': 3, 'final_steps': 6},
                                           'joint': {'n_iter': 2, 'n_iter_first': 4, 'n_steps': 3}, **changes})
    y = noise(70, 90)
    ratios = []
    for _ in range(4):
        said = sum(measure_pace(y[..., :35, :45], config).seconds((70, 90)).values())
        ratios.append(said / sum(restore(y, config).seconds.values()))
        if 0.5 < ratios[-1] < 2:
            return
    raise AssertionError(f'estimate / truth: {ratios}')


def test_the_estimate_knows_of_regions(monkeypatch):
    """Half the steps of one search again, on each half; what is timed scatters, so only the order is asked for."""
    monkeypatch.setattr('kernelfusion_plugin.estimate._timed', lambda states, _: ((1.0, state) for state in states))
    y = noise(64, 128)
    one, two, auto = (measure_pace(y, KernelFusionConfig.from_dict({**TOY, 'regions': regions}))
                      for regions in ('1x1', '1x2', 'auto'))
    size, small = (64, 128), (63, 127)
    assert one.seconds(size)['em'] < two.seconds(size)['em'] < 3 * one.seconds(size)['em']
    assert auto.seconds(size) == two.seconds(size) and auto.seconds(small) == one.seconds(small)


def test_the_estimate_judges_no_kernel(monkeypatch):
    """Its pace does not depend on how likely a kernel is, and to find out takes time."""
    for name in ('kernel_search.nll', 'restarts.mean_nll'):
        monkeypatch.setattr(f'kernelfusion_plugin.core.{name}', lambda *args: pytest.fail('judged'))
    y = noise(20, 24)
    assert measure_pace(y, KernelFusionConfig.from_dict(TOY)).seconds((20, 24))['em'] > 0


@pytest.mark.parametrize('joint', [{'pipeline': 'dip'}, {'pipeline': 'pd_unet'}, {'separate_unets': True}])
def test_the_estimate_knows_the_ablations(joint):
    config = KernelFusionConfig.from_dict({**TOY, 'solver': 'joint', 'joint': {**joint, 'n_iter': 1, 'n_iter_first': 1,
                                                                               'n_steps': 2}})
    y = noise(20, 24)
    seconds = measure_pace(y, config).seconds((20, 24))
    assert set(seconds) == ({'joint'} if joint.get('pipeline') == 'dip' else {'prior', 'joint'})
    assert all(value > 0 for value in seconds.values())
