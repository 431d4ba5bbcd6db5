"""What a model's licence asks of whoever uses the model or passes it on, in the few words that commands print."""

from __future__ import annotations

from .manifest import Licence

OPENRAIL_M = "CreativeML OpenRAIL-M"  # Stable Diffusion 1.x; paragraphs 4 to 6 and attachment A are meant below


def asked_of_users(licence: Licence) -> str:
    """What the licence asks of whoever draws pictures."""
    if licence.name == OPENRAIL_M:
        return (
            f"{licence.name} makes you accountable for what you draw (paragraph 6) and holds you and your users to its "
            "use restrictions (paragraph 5, attachment A)"
        )
    return (
        f"the model's licence ({licence.name}) and its use restrictions still hold: read them with 'latentrt inspect'"
    )


def asked_of_distributors(licence: Licence) -> str:
    """What the licence asks of whoever gives the model to others, or lets them use it over a network."""
    if licence.name == OPENRAIL_M:
        return (
            f"{licence.name} asks whoever passes the model on, or serves it, to give a copy of the licence, to bind "
            "users to its use restrictions, to say which files were changed and to keep all notices (paragraph 4)"
        )
    return f"the model's licence ({licence.name}) says what passing it on asks of you"
