"""Checkpoints, locks and the digest of the code, without a run around them."""

import shutil
import threading
import time

import pytest

from kernelfusion_plugin import checkpoints


def test_the_digest_of_the_code_is_of_all_files(tmp_path, monkeypatch):
    def digest():
        checkpoints.code_digest.cache_clear()
        return checkpoints.code_digest()

    before = digest()
    monkeypatch.setattr(checkpoints, '__file__', str(tmp_path / 'checkpoints.py'))
    (tmp_path / 'core').mkdir()
    seen = [before, digest()]
    for name, text in (('a.py', 'x = 1'), ('core/b.py', 'x = 1'), ('a.py', 'x = 2')):
        (tmp_path / name).write_text(text)
        seen.append(digest())
    (tmp_path / 'core/b.py').rename(tmp_path / 'b.py')
    seen.append(digest())
    assert len(set(seen)) == 6
    monkeypatch.undo()
    assert digest() == before


def test_asking_for_a_lock_takes_it_from_nobody(tmp_path):
    """``watch`` and waiting ranks ask all the time."""
    done = threading.Event()

    def ask():
        while not done.is_set():
            checkpoints.is_locked(tmp_path / 'lock')

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(300):
            checkpoints.hold(tmp_path / 'lock').close()
    finally:
        done.set()
        asking.join()
    with checkpoints.locked(tmp_path / 'lock'), pytest.raises(ValueError, match='another process is working here'):
        checkpoints.hold(tmp_path / 'lock')


def test_a_damaged_checkpoint_is_none_and_told_in_a_line_whatever_it_is_called(tmp_path, caplog):
    path = tmp_path / 'two\nlines.pt'
    path.write_bytes(b'no checkpoint')
    assert checkpoints.Checkpoint(path, 'key').load() is None
    (record,) = caplog.records
    assert 'two?lines.pt: not a checkpoint' in record.message and '\n' not in record.message


def test_a_lock_that_was_removed_while_it_was_waited_for_is_none(tmp_path):
    """As by the process that had it, at its end: the next one would stand beside who holds the file that is gone."""
    path, waited = tmp_path / 'a_run/lock', []
    first = checkpoints.hold(path, make_folder=True)
    waiting = threading.Thread(target=lambda: waited.append(checkpoints.hold(path, make_folder=True)))
    waiting.start()
    time.sleep(0.1)
    shutil.rmtree(path.parent)
    first.close()
    waiting.join()
    with waited[0], pytest.raises(ValueError, match='another process is working here'):
        checkpoints.hold(path)
