"""``basicsr/test.py`` whose images take a while, and whose rank dies (kill -9) at the image that DIE_AT names."""

import os
import signal
import sys
import time

import kernelfusion_hook

if __name__ == '__main__':
    kernelfusion_hook.install()
    from kernelfusion_plugin import launch
    from kernelfusion_plugin.models.restoration_model import RestorationModel

    restore = RestorationModel.restore_entry

    def restore_or_die(self, entry, *arguments):
        if entry.name == os.environ.get('DIE_AT') and os.environ.get('TORCHELASTIC_RESTART_COUNT', '0') == '0':
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(os.environ.get('SLOWNESS', '0.3')))
        return restore(self, entry, *arguments)

    RestorationModel.restore_entry = restore_or_die
    sys.exit(launch.run('test'))
