"""Run a worker on a full or read-only disk: it writes nothing there, so it folds as usual.

Each worker mounts the disk in its own mount namespace, which needs root or CAP_SYS_ADMIN.
"""

import asyncio
import subprocess
import sys

import pytest

from stream.logs.event_log import LoggedEvent
from tests.chaos.scene import Scene

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

ALONE = """
import ctypes, errno, os, sys, tempfile
libc = ctypes.CDLL(None, use_errno=True)

def mount(source, target, kind, flags, data=None):
    if libc.mount(source, target, kind, flags, data):
        raise OSError(ctypes.get_errno(), "mount")

if libc.unshare(0x20000):  # CLONE_NEWNS
    raise OSError(ctypes.get_errno(), "unshare")
mount(b"none", b"/", None, 0x44000)  # MS_REC | MS_PRIVATE: nothing of this is seen outside
"""
FULL = """
os.mkdir("disk")
mount(b"none", b"disk", b"tmpfs", 0, b"size=16m")
os.chdir("disk")
os.environ["HOME"] = os.environ["TMPDIR"] = os.getcwd()
with open("full", "wb", buffering=0) as full:
    try:
        while full.write(bytes(1 << 16)):
            pass
    except OSError as error:
        sys.stderr.write(errno.errorcode[error.errno] + "\\n")
"""
READ_ONLY = """
mount(b"none", b"/", None, 0x1021)  # MS_BIND | MS_REMOUNT | MS_RDONLY
mount(os.fsencode(os.getcwd()), os.fsencode(os.getcwd()), None, 0x1000)
mount(b"none", os.fsencode(os.getcwd()), None, 0x1021)
os.chdir(os.getcwd())
try:
    open("any", "wb")
except OSError as error:
    sys.stderr.write(errno.errorcode[error.errno] + "\\n")
"""
WORK = """
del os.environ["FOOTFALL_STATUS_FILE"]  # a supervisor sets it and must then provide its folder
from stream.cli.main import main
main()
"""


@pytest.mark.parametrize(("disk", "fact"), [(FULL, "ENOSPC"), (READ_ONLY, "EROFS")], ids=["full", "read-only"])
async def test_a_worker_with_no_disk_to_write_to_folds_as_usual(
    scene: Scene, events: list[LoggedEvent], disk: str, fact: str
) -> None:
    tried = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", ALONE], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip("mounting needs root and a mount namespace (CAP_SYS_ADMIN)")
    await scene.deployment.publish(events[:3000])

    worker = scene.deployment.start("features", program=ALONE + disk + WORK)
    await scene.settled()

    assert fact in worker.log.read_text(errors="replace").splitlines(), worker.tail()
    scene.report.faults[fact] += 1
    assert await asyncio.to_thread(worker.stop) == 0, worker.tail()
    await scene.exact(3000)
