"""Open a bundle: a folder whose every file is checked against `bundle.json` before anything parses it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from .errors import BundleError
from .external_data import external_locations
from .hashing import file_sha256
from .manifest import FILE_NAME, MAX_BYTES, Component, Manifest, decoder_component, parse_manifest

ENGINES = "engines"  # the folder of compiled engines, which the manifest does not list
_MAX_GRAPH_BYTES = 2**31 - 1  # what protobuf can hold; weights beside the graph may be larger


class Bundle:
    """A bundle on disk. Opening reads `bundle.json`; each other file is hashed the first time it is asked for.

    Not safe against someone who changes files between the check and the use; it is against damage, mix-ups and
    bundles from strangers.
    """

    def __init__(self, root: Path, manifest: Manifest, digest: str, engine_dir: Path | None = None) -> None:
        self.root = root
        self.engine_dir = engine_dir or root / ENGINES
        self.manifest = manifest
        self.hash = digest  # SHA-256 of `bundle.json`, which names every file's hash
        self._verified: set[str] = set()

    @classmethod
    def open(cls, path: str | Path, engine_dir: Path | None = None) -> Bundle:
        """Open the bundle in folder `path`; its compiled engines are kept in it, or in `engine_dir`.

        Raises:
            BundleError: there is none, it is damaged, or its format is not this version's.
        """
        root = Path(path)
        manifest_file = root / FILE_NAME
        with _named_errors(manifest_file):
            if not root.exists():
                raise BundleError(f"there is no bundle at {root}: make one with 'latentrt export SOURCE -o {root}'")
            if not manifest_file.is_file() or manifest_file.is_symlink():
                raise BundleError(f"{root} is not a bundle: it has no file {FILE_NAME}")
            with manifest_file.open("rb") as stream:
                data = stream.read(MAX_BYTES + 1)
        return cls(root, parse_manifest(data, str(root)), hashlib.sha256(data).hexdigest(), engine_dir)

    def component(self, name: str) -> Component:
        """The named component.

        Raises:
            BundleError: the bundle has none of this name.
        """
        if name not in self.manifest.components:
            raise BundleError(f"{self.root} has no component {name!r}; it has {', '.join(self.manifest.components)}")
        return self.manifest.components[name]

    def decoder(self, name: str) -> Component:
        """The decoder of this name, as a component."""
        return self.component(decoder_component(name))

    def file(self, path: str) -> Path:
        """The place of a listed file, once its size and hash are those of the manifest.

        Raises:
            BundleError: not listed, missing, a link, outside the folder, or altered.
        """
        if path not in self.manifest.files:
            raise BundleError(f"{self.root}: {path!r} is not listed in {FILE_NAME}")
        place = self.root / path
        if path not in self._verified:
            with _named_errors(place):
                self._verify(path, place)
            self._verified.add(path)
        return place

    def graph(self, name: str) -> Path:
        """The ONNX graph of a component: it and its weights are checked, and it refers to no other file.

        Raises:
            BundleError: as `file`; the graph refers to a file that is not among the component's weights; or the bundle
                was packed without it.
        """
        component = self.component(name)
        if component.graph is None:
            raise BundleError(
                f"{self.root} was packed without the graph of {name}, for the engines in it alone: use the bundle that "
                "it was packed from"
            )
        for path in component.weights:
            self.file(path)
        graph = self.file(component.graph)
        if graph.stat().st_size > _MAX_GRAPH_BYTES:
            raise BundleError(f"{self.root}: {component.graph} is larger than an ONNX graph can be; export it again")
        folder = PurePosixPath(component.graph).parent
        for location in external_locations(graph.read_bytes(), component.graph):
            # compared as text: listed paths hold no '..' and, being checked, no links
            if str(folder / location) not in component.weights:
                raise BundleError(
                    f"{self.root}: {component.graph} takes weights from {location!r}, which {FILE_NAME} does not list; "
                    "do not use this bundle"
                )
        return graph

    def verify_all(self) -> None:
        """Check every listed file.

        Raises:
            BundleError: the first file that is missing or altered.
        """
        for path in self.manifest.files:
            self.file(path)

    def _verify(self, path: str, place: Path) -> None:
        record = self.manifest.files[path]
        folder = self.root
        for part in Path(path).parts:
            folder /= part
            if folder.is_symlink():
                raise BundleError(f"{self.root}: {path} is behind a symbolic link; copy the bundle with its files")
        if not place.is_file():
            raise BundleError(f"{self.root}: {path} is missing; copy or export the bundle again")
        size = place.stat().st_size
        if size != record.size:
            raise BundleError(
                f"{self.root}: {path} has {size} bytes, {FILE_NAME} says {record.size}; copy or export the bundle again"
            )
        found = sha256(place)
        if found != record.sha256:
            raise BundleError(
                f"{self.root}: {path} is altered: its SHA-256 is {found[:12]}…, {FILE_NAME} says "
                f"{record.sha256[:12]}…; copy or export the bundle again"
            )


def sha256(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        BundleError: it cannot be read.
    """
    with _named_errors(file):
        return file_sha256(file)


@contextmanager
def _named_errors(file: Path) -> Iterator[None]:
    """Turn the system's errors of reading (no permission, a name too long) into one that names the file."""
    try:
        yield
    except OSError as error:
        raise BundleError(f"cannot read {file}: {error.strerror}") from error
