"""`latentrt inspect`: what a bundle holds, whether its engines fit here, how a picture was made."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from latentrt.engines import store
from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import EngineError
from latentrt.runtime.picture import read_facts

from .engines import fit
from .printing import say
from .protection import licence_lines, licence_texts, safety_lines


def inspect_picture(path: Path) -> None:
    """Print how a picture was made."""
    for key, value in read_facts(path).items():
        say(f"{key:16} {value}")


def inspect_bundle(console: Console, path: Path, engine_dir: Path | None, device: int) -> None:
    """Print what a bundle is and holds, once every file of it is checked."""
    bundle = Bundle.open(path, engine_dir)
    with console.status("checking every file"):
        bundle.verify_all()
    manifest = bundle.manifest
    model, size = manifest.model, sum(record.size for record in manifest.files.values())
    intact = f"{len(manifest.files)} files, {size / 1e6:.1f} MB, all intact"
    say(f"bundle           {path}: format {manifest.format}, {intact}")
    say(f"hash             {bundle.hash}")
    say(f"model            {model.family}, {model.prediction_type}, {model.default_size}x{model.default_size} pixels")
    say(f"sizes            multiples of {model.size_multiple} pixels")
    say(f"decoders         {', '.join(manifest.decoders)} (default {manifest.default_decoder})")
    for line in (*safety_lines(manifest), *licence_lines(manifest)):
        say(line)
    for key, value in manifest.provenance.items():
        say(f"{key:16} {value}")
    _print_components(bundle)
    _print_engines(bundle, device)
    for line in licence_texts(bundle):
        say(line)


def _print_components(bundle: Bundle) -> None:
    for name, component in bundle.manifest.components.items():
        print()
        say(f"{name}: at most {component.max_abs_error:.0e} from PyTorch in fp32")
        for direction, specs in (("takes", component.inputs), ("gives", component.outputs)):
            for spec in specs:
                say(f"  {direction} {spec}")


def _print_engines(bundle: Bundle, device: int) -> None:
    records = store.stored(bundle)
    print()
    say(f"engines: {len(records) or 'none built; onnxruntime opens the graphs as they are'}")
    for record in records:
        if isinstance(record, EngineError):
            say(f"  damaged: {record}")
        else:
            say(f"  {record.key.id} {record.key.component} {record.key.backend}: {fit(bundle, record, device)}")
