"""Train clips that cannot be read: another one takes their place, and the batch says so.

Val and test are read without it: a score over fewer clips is another score.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from avslib.core.errors import BadClipsError, DataError, PictureError

CORRUPT = "corrupt"
UNREADABLE = (PictureError, DataError)


def first_readable(
    read: Callable[[Any], Mapping[str, Any]], keys: Iterable[Any], name: Callable[[Any], str], limit: int
) -> tuple[Any, dict[str, Any]]:
    """The first of `keys` whose clip can be read, with its item: ``corrupt`` there holds the clips before it, as JSON.

    Args:
        name: a key's clip.
        limit: clips that may be corrupt.

    Raises:
        BadClipsError: more of them are corrupt, or all.
    """
    corrupt: dict[str, str] = {}
    for key in keys:
        try:
            return key, {**read(key), CORRUPT: json.dumps(corrupt) if corrupt else ""}
        except UNREADABLE as error:
            corrupt[name(key)] = str(error)
        if len(corrupt) > limit:
            break
    raise too_many(corrupt, limit)


def corrupt_clips(batch: Mapping[str, Any]) -> dict[str, str]:
    """Why each clip could not be read whose place another one took in this batch.

    >>> corrupt_clips({"corrupt": ["", '{"dog": "dog_1.png: truncated"}']})
    {'dog': 'dog_1.png: truncated'}
    """
    return {name: why for text in batch.get(CORRUPT, ()) if text for name, why in json.loads(text).items()}


def too_many(corrupt: Mapping[str, str], limit: int) -> BadClipsError:
    """What to raise, with the names of all corrupt clips and the reasons of the first ones."""
    reasons = "; ".join(f"{name!r} ({why})" for name, why in list(corrupt.items())[:3])
    more = "".join(f", {name!r}" for name in list(corrupt)[3:])
    return BadClipsError(
        f"{len(corrupt)} of the train clips cannot be read, and data.max_corrupt allows {limit}: {reasons}{more}; mend "
        "them or leave them out by data.skip (avs data check --fix-list writes it), or raise data.max_corrupt"
    )
