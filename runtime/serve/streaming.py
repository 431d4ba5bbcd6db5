"""How pictures and progress go over the wire as text: base64, and server-sent events."""

from __future__ import annotations

import base64
import json
from typing import Any


def base64_text(data: bytes) -> str:
    """Bytes as JSON can hold them."""
    return base64.b64encode(data).decode("ascii")


def event(name: str, data: dict[str, Any]) -> bytes:
    """One server-sent event; its data is JSON on one line."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode("ascii")
