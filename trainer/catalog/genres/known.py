"""The genres of IMDb, TMDB and MovieLens: they help to recognise a column of genres, and names that look like two genres."""

_ONE_WORD = """
    action adult adventure animation anime biography children children's comedy crime documentary drama family fantasy foreign
    history horror imax kids music musical mystery news noir politics reality romance sci-fi short soap sport sports suspense
    talk thriller war western
"""
# These hold a blank, a hyphen or an ampersand of their own, which separates nothing.
_SEVERAL_WORDS = (
    *("film-noir", "film noir", "game-show", "game show", "reality-tv", "reality tv", "sci-fi", "sci fi", "science-fiction"),
    *("science fiction", "short film", "talk-show", "talk show", "tv-movie", "tv movie", "tv-series", "tv series"),
    *("action & adventure", "sci-fi & fantasy", "war & politics", "action and adventure", "war and politics"),
)
_KNOWN = frozenset((*_ONE_WORD.split(), *_SEVERAL_WORDS))


def is_known(name: str) -> bool:
    """Returns whether a name is a well-known genre, in any case."""
    return name.strip().casefold() in _KNOWN


def is_one_name(text: str) -> bool:
    """Returns whether a text of several words is one well-known genre, such as Science Fiction or Film-Noir."""
    return " ".join(text.casefold().split()) in _SEVERAL_WORDS
