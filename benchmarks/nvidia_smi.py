"""What the driver's own tool says of the GPUs of this machine."""

from __future__ import annotations

import shutil
import subprocess

_SECONDS = 10


def asked(*fields: str) -> list[list[str]]:
    """The fields of each GPU, as `nvidia-smi --query-gpu` names them; empty where there is no GPU, or no answer."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.split(", ") for line in told.splitlines()]
