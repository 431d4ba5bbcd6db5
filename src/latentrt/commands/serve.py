"""`latentrt serve`: open a bundle, listen, and serve until told to stop."""

from __future__ import annotations

import ipaddress
import os
import threading
from dataclasses import replace

from rich.console import Console

from latentrt.engines.bundle import Bundle
from latentrt.runtime.serve.errors import EngineStalledError
from latentrt.runtime.serve.logs import logs_on_stderr
from latentrt.runtime.serve.opening import Opening
from latentrt.runtime.serve.server import listen, run
from latentrt.runtime.serve.service import Service
from latentrt.runtime.serve.settings import LOOPBACK, ServeSettings


def serve_command(console: Console, opening: Opening, settings: ServeSettings, host: str, port: int) -> None:
    """Serve until SIGTERM or Ctrl-C, and until what is under way then has ended.

    Where a call of an engine never returns the process ends here, with the exit code of `EngineStalledError`.

    Raises:
        LatentrtError: the engines did not open, or the address is not to be had.
    """
    bundle = Bundle.open(opening.path, opening.engine_dir)
    with listen(host, port) as listener:
        address = ipaddress.ip_address(listener.getsockname()[0])
        if settings.api_keys is None and not address.is_loopback:
            console.print(
                f"warning: {address} is not this machine alone, and anybody may ask: give --api-key-file", markup=False
            )
        if address.is_loopback:
            settings = replace(settings, allowed_hosts=LOOPBACK | (settings.allowed_hosts or frozenset()))
        try:
            with logs_on_stderr():
                run(Service(bundle, settings, opening), listener)
        except EngineStalledError as stalled:
            console.print(f"error: {stalled}", markup=False)
            os._exit(stalled.exit_code)
    if any(thread.daemon and thread.name.startswith("latentrt") for thread in threading.enumerate()):
        os._exit(0)  # engines are still at work, or are being opened: the interpreter's own end could wait for them
