"""Two processes that work together, as torchrun starts them."""

import os
import subprocess
import sys
from pathlib import Path

from samples import ROOT

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def run_workers(code: str, folder: Path) -> list[str]:
    """What each of two processes that run `code` wrote into the file FOLDER/RANK; FOLDER is their argument."""
    (folder / "worker.py").write_text(code)
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "support")))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [*LAUNCH, str(folder / "worker.py"), str(folder)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return [(folder / rank).read_text() for rank in "01"]
