"""Memory and streams of the GPU: each object owns one, gives it back once, and knows its size in bytes."""

from __future__ import annotations

import ctypes
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cuda import call, cudart

_KIND = cudart.cudaMemcpyKind


class Stream:
    """A stream of its own, which does not wait for the default one."""

    def __init__(self) -> None:
        self._stream = call(cudart.cudaStreamCreateWithFlags, cudart.cudaStreamNonBlocking)
        self.handle = int(self._stream)

    def synchronize(self) -> None:
        """Wait until all that was put on it is done."""
        call(cudart.cudaStreamSynchronize, self._stream)

    def close(self) -> None:
        """Give it back, once it is done."""
        if self.handle:
            self.handle = 0
            call(cudart.cudaStreamDestroy, self._stream)


class DeviceMemory:
    """Memory of the GPU, aligned to 256 bytes at least."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.address = int(call(cudart.cudaMalloc, size))

    def close(self) -> None:
        """Give it back."""
        if self.address:
            address, self.address = self.address, 0
            call(cudart.cudaFree, address)


class PinnedMemory:
    """Memory of the host that the GPU copies from and to by itself; `bytes` is a view of it, (size,) uint8."""

    def __init__(self, size: int) -> None:
        self._address = int(call(cudart.cudaMallocHost, size))
        view = (ctypes.c_uint8 * size).from_address(self._address)
        self.bytes: NDArray[np.uint8] = np.ctypeslib.as_array(view)

    def close(self) -> None:
        """Give it back; `bytes` is empty from then on."""
        if self._address:
            address, self._address = self._address, 0
            self.bytes = np.empty(0, np.uint8)
            call(cudart.cudaFreeHost, address)


def _both_sides(size: int) -> tuple[DeviceMemory, PinnedMemory, ExitStack]:
    """As much memory of the GPU as of the host, and what gives both back, whichever of them fails."""
    with ExitStack() as stack:
        device = DeviceMemory(size)
        stack.callback(device.close)
        staging = PinnedMemory(size)
        stack.callback(staging.close)
        return device, staging, stack.pop_all()


class InputBuffer:
    """One input: an array's bytes go through pinned memory, and only if they are not those that are there already."""

    def __init__(self, size: int) -> None:
        self.device, self._staging, self._resources = _both_sides(size)
        self._held = 0  # bytes on the GPU that equal those staged

    def upload(self, array: NDArray[Any], stream: Stream) -> None:
        """Have the array on the GPU when the stream gets here; the stream must be done with the last upload."""
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        staged = self._staging.bytes[: content.size]
        if self._held == content.size and np.array_equal(staged, content):
            return  # text embeddings are the same at every step of a picture
        staged[:] = content
        self._held = 0
        call(
            cudart.cudaMemcpyAsync,
            self.device.address,
            staged.ctypes.data,
            content.size,
            _KIND.cudaMemcpyHostToDevice,
            stream.handle,
        )
        self._held = content.size

    def close(self) -> None:
        """Give the memory back."""
        self._resources.close()


class OutputBuffer:
    """One output: it comes back through pinned memory."""

    def __init__(self, size: int) -> None:
        self.device, self._staging, self._resources = _both_sides(size)

    def download(self, size: int, stream: Stream) -> None:
        """Put a copy of the first `size` bytes on the stream."""
        call(
            cudart.cudaMemcpyAsync,
            self._staging.bytes.ctypes.data,
            self.device.address,
            size,
            _KIND.cudaMemcpyDeviceToHost,
            stream.handle,
        )

    def array(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """What was downloaded, as an array of the caller's own; the stream must be done."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self._staging.bytes[:size].copy().view(dtype).reshape(shape)

    def close(self) -> None:
        """Give the memory back."""
        self._resources.close()
