"""What `latentrt generate --memory` tells: the plan before, and after it what was taken."""

from __future__ import annotations

from latentrt.engines.manifest import UNET, decoder_component
from latentrt.engines.memory_words import told
from latentrt.runtime.memory_plan import MemoryPlan
from latentrt.runtime.request import Plan


def planned_line(fits: MemoryPlan, planned: Plan) -> str:
    """How a picture is drawn within its budget, and what that is expected to take."""
    rows, tile = fits.chosen[UNET], fits.chosen[decoder_component(planned.decoder)]
    how = ["engines opened in turn" if fits.in_turn else "all engines stay open"]
    how.append(f"{rows} row{'s' if rows > 1 else ''} of the UNet a call")
    if tile < max(planned.latent_shape[2:]):
        how.append(f"decoded in tiles of {tile} latents")
    return f"memory: {told(fits.peak)} planned of {told(fits.budget)}: {', '.join(how)}"


def peak_line(fits: MemoryPlan, peak: int) -> str:
    """What was taken at most, beside what was planned."""
    over = "" if peak <= fits.budget else "; more than was given: please report it, with this line and the size"
    return f"memory: {told(peak)} taken at most, {told(fits.peak)} planned of {told(fits.budget)}{over}"
