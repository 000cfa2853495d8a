"""The console tool: its list, its commands' help, and faults as one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from tqdm import tqdm

from kernelfusion_plugin.bench import speed
from kernelfusion_plugin.cli import COMMANDS, main
from kernelfusion_plugin.click_path import UserPath


def invoke(*arguments):
    return CliRunner().invoke(main, [str(one) for one in arguments])


def test_every_command_is_listed_and_explains_its_options():
    listed = invoke('--help')
    assert listed.exit_code == 0
    for name, (_, line) in COMMANDS.items():
        assert name in listed.output and line.split()[0] in listed.output
        shown = invoke(name, '-h')
        assert shown.exit_code == 0, shown.output
        assert f'main {name}' in shown.output and '--help' in shown.output


def test_an_unknown_command_is_one_line_and_status_2():
    answer = invoke('restroe')
    assert answer.exit_code == 2 and "No such command 'restroe'" in answer.output


def test_a_fault_in_what_was_given_is_one_line_and_status_2(monkeypatch):
    answer = invoke('benchmark', 'wrok')
    assert answer.exit_code == 2
    assert "benchmark has no part 'wrok'; it has work, area, prior, tiles" in answer.output
    assert 'Traceback' not in answer.output
    monkeypatch.setenv('KERNELFUSION_DEBUG', '1')
    assert isinstance(invoke('benchmark', 'wrok').exception, ValueError)


@pytest.mark.parametrize('command', [['benchmark', 'tiles'], ['published', '.'], ['restore', 'a.png']])
def test_a_device_that_is_not_there_is_one_line_and_status_2(command):
    answer = invoke(*command, '--device', 'gpu')
    assert answer.exit_code == 2 and "for '--device': gpu: Expected one of cpu, cuda" in answer.output


def test_options_of_published_are_a_section():
    answer = invoke('published', '.', '--options', '[1]')
    assert answer.exit_code == 2 and '--options must be a section of settings' in answer.output


def test_what_the_system_refuses_is_one_line_and_status_2():
    answer = invoke('restore', 'a' * 300)
    assert answer.exit_code == 2 and 'File name too long' in answer.output


def test_paths_of_options_know_the_home_folder_and_are_not_empty(tmp_path, monkeypatch):
    """A shell leaves "--out=~/sharp" as it is."""
    monkeypatch.setenv('HOME', str(tmp_path))
    taken = UserPath().convert('~/sharp', None, None)
    assert taken == tmp_path / 'sharp'
    assert UserPath().convert(Path('~nobody-of-that-name'), None, None) == Path('~nobody-of-that-name')
    answer = invoke('restore', 'a.png', '-o', '')
    assert answer.exit_code == 2 and "'-o' / '--out': a path must not be empty" in answer.output


def test_a_home_that_cannot_be_written_to_is_not_spoken_of():
    """matplotlib, whose font is drawn with, would like to keep things there."""
    code = ('import click; from kernelfusion_plugin import cli, pictures\n'
            'try: cli.main.main(["restroe"], standalone_mode=False)\n'
            'except click.UsageError: pictures.font(12)')
    answer = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                            env={**os.environ, 'HOME': '/dev/null', 'MPLCONFIGDIR': ''})
    assert (answer.returncode, answer.stderr) == (0, '')


def test_without_an_error_stream_bars_are_drawn_nowhere(monkeypatch):
    """Closed by "2>&-", as some daemons do; tqdm asks it all the same."""
    monkeypatch.setattr(sys, 'stderr', None)
    with pytest.raises(click.UsageError):
        main.main(['benchmark', 'wrok'], standalone_mode=False)
    assert list(tqdm(range(3))) == [0, 1, 2]


def test_benchmark_writes_its_figures(tmp_path, monkeypatch):
    whole = speed.photograph()
    monkeypatch.setattr(speed, 'photograph', lambda: whole[..., 100:356, 100:356])
    answer = invoke('benchmark', 'tiles', '--device', 'cpu', '--out', tmp_path / 'figures.json')
    assert answer.exit_code == 0, answer.output
    figures = json.loads((tmp_path / 'figures.json').read_text())
    assert figures['device'].startswith('CPU')
    assert all(row['largest_difference'] < 1e-4 for row in figures['tiles'].values())
