"""What `latentrt export` and `latentrt build` can be asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

ExportSource = Annotated[Path, typer.Argument(metavar="SOURCE", help="A single-file checkpoint or a diffusers folder.")]
ExportOutput = Annotated[Path, typer.Option("-o", "--output", metavar="BUNDLE", help="The bundle's folder to write.")]
ExportVae = Annotated[
    list[str] | None, typer.Option(metavar="NAME=PATH", help="A refined decoder to add; may be repeated.")
]
ExportWeights = Annotated[
    Literal["ema", "raw"] | None,
    typer.Option(help="The averaged weights or the raw ones; the averaged where the checkpoint has them."),
]
ExportVariant = Annotated[
    str | None, typer.Option(metavar="NAME", help="Which files of a diffusers folder, such as fp16.")
]
ExportPrediction = Annotated[
    Literal["epsilon", "v_prediction"] | None,
    typer.Option(help="What the UNet predicts, where the checkpoint does not say so or is wrong."),
]
ExportPrecision = Annotated[Literal["fp32", "fp16"], typer.Option(help="Of the graphs: fp16 takes half the disk.")]
ExportSafetyChecker = Annotated[
    Path | None, typer.Option(metavar="PATH", help="A safety checker's folder, where SOURCE has none.")
]
ExportLicence = Annotated[
    Path | None, typer.Option("--license", metavar="FILE", help="The model's licence, where none is beside SOURCE.")
]
ExportOverwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the bundle that is there.")]
ExportGoldenSize = Annotated[
    list[str] | None, typer.Option(metavar="WxH", help="Record PyTorch's answers at this size too; repeatable.")
]
ExportGoldenRows = Annotated[
    list[int] | None, typer.Option(metavar="N", help="Record PyTorch's answers to N rows too; repeatable.")
]
BuildSize = Annotated[
    list[str] | None,
    typer.Option(metavar="WxH", help="A size to have a profile for; repeatable. The model's own if not given."),
]
BuildRows = Annotated[str, typer.Option(metavar="N,N,...", help="Rows of a UNet call to have profiles for.")]
BuildTokens = Annotated[str, typer.Option(metavar="N,N,...", help="Tokens of the UNet's text: 77 a chunk.")]
BuildTarget = Annotated[
    str, typer.Option(metavar="smNN,...", help="GPU architectures to build for; this machine's if not given.")
]
BuildOptLevel = Annotated[int | None, typer.Option(help="TensorRT's builder optimization level, 0 to 5.")]
BuildRefittable = Annotated[bool, typer.Option("--refittable", help="Let other weights be put in later.")]
BuildMemoryLimit = Annotated[
    float | None,
    typer.Option("--memory-limit", metavar="GB", help="GPU memory for one engine's weights and activations, at most."),
]
BuildWeightStreaming = Annotated[bool, typer.Option("--weight-streaming", help="Let weights stay in host memory.")]
BuildOpset = Annotated[
    int | None, typer.Option(metavar="20", help="Write attention out in ONNX opset 20, for readers older than 23.")
]
BuildCompatible = Annotated[bool, typer.Option("--compatible", help="For other GPUs too: Ampere and later.")]
