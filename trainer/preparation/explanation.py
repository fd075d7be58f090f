"""Says how a CSV was understood, with the evidence, before the work starts."""

from trainer.catalog.catalog import Catalog, Film
from trainer.errors import brief
from trainer.preparation.matching import Matched
from trainer.sources.lookup import How, ImageFinder, Match
from trainer.storage import urls

_SHOWN_LABELS = 10
_SHOWN_FILMS = 5
_SHOWN_FILES = 3


def understood(csv: str, catalog: Catalog, matched: Matched, finder: ImageFinder | None) -> list[str]:
    """Describes how a CSV was understood.

    Args:
      csv: The CSV's path as it may be shown.
      catalog: The films of the CSV.
      matched: Where their images are.
      finder: The images of --images; None if there is no folder.

    Returns:
      Lines: the number of rows, then what is what, each with its evidence, then notes.
    """
    layout = catalog.layout
    first = catalog.films[0] if catalog.films else None
    is_by_id = layout.image == layout.id
    matches = _matches(matched) if finder else ""
    distinct = f"{catalog.distinct_ids:,} of {catalog.rows:,} distinct"
    lines = [
        f"{csv}: {catalog.rows:,} rows",
        f"  file: {catalog.read_as}",
        f"  id: {layout.id}{_in_parentheses(distinct, matches if is_by_id else '')}{_in_row(first, first and first.id)}",
        f"  genres: {_genres(catalog)}{_in_row(first, first and first.genres)}",
    ]
    if not is_by_id:
        lines.append(f"  images: {layout.image}{_in_parentheses(matches)}{_in_row(first, first and first.image)}")
    if None in matched.files:
        film = matched.films[matched.files.index(None)]
        where = " that are not in --images" if finder else ""
        count = f"{matched.files.count(None):,} images{where}"
        lines.append(f"  URLs: {layout.url or layout.image} ({count}){_in_row(film, urls.shown(film.url or ''))}")
    if layout.title:
        lines.append(f"  title: {layout.title}")
    by_hash = "80 % train, 10 % validation, 10 % test, by a hash of the id"
    lines.append(f"  splits: {layout.split or by_hash}{'; blank ones by a hash of the id' if layout.split_may_be_blank else ''}")
    lines += [f"  note: {note}" for note in catalog.notes]
    return lines


def warnings(catalog: Catalog, matched: Matched, finder: ImageFinder | None) -> list[str]:
    """Returns what the user should check, a line each."""
    found = list(catalog.warnings)
    lost = len(matched.rejects)
    if finder and lost > len(catalog.films) / 2:
        names = ", ".join(repr(brief(path)) for path in finder.image_paths()[:_SHOWN_FILES])
        line = f"{lost:,} of {len(catalog.films):,} films find no image by column {catalog.layout.image!r}"
        better = catalog.layout.names_files
        if better and better != catalog.layout.image:
            found.append(f"{line}, but the values of column {better!r} name files: add --image_column={better}")
        else:
            found.append(f"{line}: --images has files such as {names}; if another column names them, add --image_column")
    return found


def first_films(matched: Matched) -> list[str]:
    """Describes the first films, with their images and genres, a line each."""
    return [
        f"  row {film.row}: id {brief(film.id)!r}"
        + (f", {brief(film.title)!r}" if film.title else "")
        + f": {', '.join(map(brief, film.genres))}; image {brief(_image(match, film.url))}"
        for film, match in list(zip(matched.films, matched.files, strict=True))[:_SHOWN_FILMS]
    ]


def _matches(matched: Matched) -> str:
    """Says how many films match a file, and by what if not all of them do by the file's own name."""
    count = f"{sum(matched.found_by.values()):,} match a file"
    if not set(matched.found_by) - {How.EXACT}:
        return count
    return f"{count}: {', '.join(f'{films:,} by {how}' for how, films in matched.found_by.most_common())}"


def _image(match: Match | None, url: str | None) -> str:
    return match.path if match else urls.shown(url or "")


def _genres(catalog: Catalog) -> str:
    layout = catalog.layout
    if layout.labels:
        labels = list(layout.labels.values())
        more = f" and {len(labels) - _SHOWN_LABELS} more" if len(labels) > _SHOWN_LABELS else ""
        how = f"columns of 0 and 1: {', '.join(labels[:_SHOWN_LABELS])}{more}"
    else:
        separated = f", separated by {_quoted(layout.separator.text)}" if layout.separator else ""
        how = f"{', '.join(layout.genres)}{separated}"
    different = len({genre for film in catalog.films for genre in film.genres})
    return f"{how} ({different:,} genres)"


def _quoted(separator: str) -> str:
    return '"' + separator.replace("\n", "\\n").replace("\t", "\\t") + '"'


def _in_row(film: Film | None, value: object) -> str:
    """Shows what the first film has, as evidence."""
    if film is None or not value:
        return ""
    return f", in row {film.row}: {brief(', '.join(value) if isinstance(value, tuple) else repr(value))}"


def _in_parentheses(*texts: str) -> str:
    text = ", ".join(filter(None, texts))
    return f" ({text})" if text else ""
