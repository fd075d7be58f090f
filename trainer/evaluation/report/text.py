"""Puts an evaluation into words and a table for the terminal; the log and the report page use the same sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.evaluation.metrics.metrics import F1_AVERAGES
from trainer.evaluation.metrics.predictions import OPERATING_POINTS
from trainer.process.tables import aligned

METRIC_NAMES = {
    "precision": "precision",
    "recall": "recall",
    **F1_AVERAGES,
    "subset_accuracy": "exact match",
    "hamming_loss": "wrong decisions",
}
"""The metrics of an operating point: their keys in metrics.json and their names in the table and the report."""


@dataclass(frozen=True)
class Verdict:
    """A comparison of the model with the better baseline at an operating point.

    Attributes:
      clear: whether the model is clearly better.
      sentence: the comparison in words.
    """

    clear: bool
    sentence: str


def verdicts(metrics: Mapping[str, Any]) -> list[Verdict]:
    """Returns a verdict for each operating point, warnings first.

    The model is clearly better than a baseline if the whole interval of the difference of their micro F1 is above 0, and if the
    split has at least as many films as are needed to judge a genre: the resamples of fewer films are too much alike. If it is
    known which films are near-duplicates of films in another split, the verdict rests on the other films.
    """
    found = (_verdict(metrics, point, name) for point, name in OPERATING_POINTS.items())
    return sorted(found, key=lambda verdict: verdict.clear)


def _verdict(metrics: Mapping[str, Any], point: str, name: str) -> Verdict:
    leaked = metrics["near_duplicates"] or {"films": 0}
    own = leaked["without"] if leaked["films"] else metrics
    if own is None:
        return Verdict(
            False,
            f"At {name} the model cannot be judged: every poster in this split is a near-duplicate of a poster in another split.",
        )
    films, which = own["examples"], " without a near-duplicate in another split" if leaked["films"] else ""
    if films < metrics["unjudged"]["least_films"]:
        return Verdict(False, f"At {name} the model cannot be judged: this split has too few films{which} ({films}).")
    baseline = better_baseline(own)
    ours, theirs = own[point]["f1_micro"], own["baselines"][baseline]["f1_micro"]
    low, high = bounds = own["intervals"]["differences"][point][baseline]["f1_micro"]
    if low > 0:
        opening, closing = "is clearly better than", ""
    elif high < 0:
        opening, closing = "is WORSE than", ""
    else:
        opening, closing = "has NOT been shown to beat", ", which may be chance"
    where = f"At {name}, on the {films} films{which}," if which else f"At {name}"
    rule = f"a baseline that never looks at a poster, “{baseline_name(own['baselines'][baseline])}”"
    scored = f"its micro F1 is {format_value(ours)}, the baseline's {format_value(theirs)}"
    gap = format_difference(ours - theirs, bounds)
    return Verdict(low > 0, f"{where} the model {opening} {rule}: {scored}, a difference of {gap}{closing}.")


def caution(metrics: Mapping[str, Any]) -> str:
    """Returns a warning if these films were, or may have been, used to make the model; empty if they were not."""
    if not metrics["data"]["is_the_jobs"]:
        return (
            "These films come from another data set than the job's. It is not known whether the model was trained on some of them,"
            " or whether thresholds, temperature and best epoch were chosen on some. If so, the metrics are too good."
        )
    if metrics["split"] == "train":
        return "The model was trained on these films, so all metrics are too good."
    if metrics["split"] == "validation":
        return "Thresholds, temperature and best epoch were chosen on these films, so the metrics are too good."
    return ""


def better_baseline(metrics: Mapping[str, Any]) -> str:
    """Returns the key of the baseline with the higher micro F1 on the split."""
    return max(metrics["baselines"], key=lambda key: metrics["baselines"][key]["f1_micro"])


def baseline_name(baseline: Mapping[str, Any]) -> str:
    """Returns what a baseline predicts, such as "always Drama and Comedy"."""
    return "always " + " and ".join(baseline["genres"])


def genres_by_support(metrics: Mapping[str, Any]) -> list[str]:
    """Returns the genres, the one with most films in the split first; equally common ones in the data set's order."""
    return sorted(metrics["per_genre"], key=lambda genre: -metrics["per_genre"][genre]["support"])


def unjudged(metrics: Mapping[str, Any]) -> str:
    """Returns which genres have too few films to be judged, and that they still count in the means; empty if there are none."""
    least, genres = metrics["unjudged"]["least_films"], metrics["unjudged"]["genres"]
    if not genres:
        return ""
    named = [f"{genre} ({own['films']}{'' if own['train_films'] else ', none in training'})" for genre, own in genres.items()]
    supports = [own["support"] for own in metrics["per_genre"].values()]
    return (
        f"Too few films to judge (fewer than {least} in this split, or none in training): {', '.join(named)}. The metrics of"
        " these genres are mostly chance, so they have no intervals. They still count in the means: macro F1 is the mean over all"
        f" {len(supports)} genres, mean average precision over the {sum(map(bool, supports))} that have films in this split."
        f" {len(supports) - len(genres)} of the {len(supports)} genres can be judged."
    )


def near_duplicates(metrics: Mapping[str, Any]) -> str:
    """Returns how many posters are near-duplicates of posters in another split, and the metrics without them."""
    own = metrics["near_duplicates"]
    if own is None and not metrics["data"]["is_the_jobs"]:
        return "Near-duplicates: not known. The model may have been trained on these posters, or on nearly the same ones."
    if own is None:
        return "Near-duplicates: not known. To find posters that are in two splits, prepare the data set again."
    if not own["films"]:
        return "Near-duplicates: none. No poster in this split has nearly the perceptual hash of a poster in another split."
    which = "whose perceptual hash nearly equals that of a poster in another split"
    if own["without"] is None:
        return f"Near-duplicates: all {own['films']} films have posters {which}, so the metrics say nothing about new posters."
    rest, bounds = own["without"], own["without"]["intervals"]
    f1 = [f"{name} {format_value(rest['tuned'][key], bounds['tuned'][key])}" for key, name in F1_AVERAGES.items()]
    ranking = format_value(rest["mean_average_precision"], bounds["mean_average_precision"])
    return (
        f"Near-duplicates: {own['films']} of the {metrics['examples']} films have posters {which}. They may show the same poster,"
        f" or different posters that look alike. Without them, on {rest['examples']} films: {', '.join(f1)} at tuned thresholds,"
        f" mean average precision {ranking}."
    )


def table(metrics: Mapping[str, Any], *, with_verdicts: bool = True) -> str:
    """Returns the evaluation as text for the terminal: the verdicts, the model beside the baselines, and each genre.

    Args:
      metrics: the contents of metrics.json.
      with_verdicts: whether the text begins with the verdicts; a caller that logs them leaves them out here.
    """
    told = verdicts(metrics) if with_verdicts else []
    lines = [f"{'' if verdict.clear else 'WARNING: '}{verdict.sentence}" for verdict in told]
    level = f"{100 * metrics['intervals']['level']:g} %"
    head = f"{metrics['split']} split of {data_name(metrics)}, {metrics['examples']} films; [low, high] is the {level} interval"
    parts = ["\n".join(lines), caution(metrics), head, _split_rows(metrics), _comparison_rows(metrics), _genre_rows(metrics)]
    parts += [unjudged(metrics), near_duplicates(metrics)]
    return "\n\n".join(part for part in parts if part)


def _split_rows(metrics: Mapping[str, Any]) -> str:
    """Returns the metrics that do not depend on an operating point."""
    own, calibration = metrics["intervals"], metrics["calibration"]
    constant = calibration["constant"]
    before, after = (format_value(calibration[when]["expected_calibration_error"]) for when in ("before", "after"))
    loss = format_value(metrics["loss"], own["loss"], decimals=4)
    ranking = format_value(metrics["mean_average_precision"], own["mean_average_precision"])
    tempered = f"{before} without the temperature of {calibration['temperature']:g}; " if calibration["temperature"] != 1 else ""
    rows = [
        ("loss", f"{loss} (constant: {format_value(constant['loss'], decimals=4)})"),
        ("accuracy", format_value(metrics["accuracy"], own["accuracy"])),
        ("mean average precision", f"{ranking} (by chance: {format_value(metrics['mean_average_precision_by_chance'])})"),
        ("ROC AUC", f"{format_value(metrics['roc_auc'])} (by chance: 0.500)"),
        (
            "expected calibration error",
            f"{after} ({tempered}constant: {format_value(constant['expected_calibration_error'])})",
        ),
        ("", "The constant gives every film the same scores: each genre's frequency in training."),
    ]
    return "\n".join(f"{name:28}{values}" for name, values in rows)


def _comparison_rows(metrics: Mapping[str, Any]) -> str:
    """Returns the metrics of the model at each operating point beside those of the baselines."""
    intervals, baselines = metrics["intervals"], metrics["baselines"]
    rows = [["", *(f"model, {name}" for name in OPERATING_POINTS.values()), *map(baseline_name, baselines.values())]]
    for key, name in METRIC_NAMES.items():
        ours = [format_value(metrics[point][key], intervals[point].get(key)) for point in OPERATING_POINTS]
        rows.append([name, *ours, *(format_value(baseline[key]) for baseline in baselines.values())])
    for baseline, theirs in baselines.items():
        for key, name in F1_AVERAGES.items():
            leads = [
                format_difference(metrics[point][key] - theirs[key], intervals["differences"][point][baseline][key])
                for point in OPERATING_POINTS
            ]
            rows.append([f"{name}, lead over {baseline_name(theirs)}", *leads, *[""] * len(baselines)])
    return aligned(rows)


def _genre_rows(metrics: Mapping[str, Any]) -> str:
    """Returns a row of metrics for each genre."""
    columns = ["films", "AP", "ROC AUC", *(f"{key} {mark}" for mark in (".5", "tuned") for key in ("P", "R", "F1"))]
    rows = [["genre", *columns, "threshold"]]
    for genre in genres_by_support(metrics):
        own = metrics["per_genre"][genre]
        bounds = average_precision_bounds(metrics, genre)
        row = [genre, str(own["support"]), format_value(own["average_precision"], bounds), format_value(own["roc_auc"])]
        row += [format_value(own[point][key]) for point in OPERATING_POINTS for key in ("precision", "recall", "f1")]
        rows.append([*row, format_value(metrics["tuned"]["thresholds"][genre])])
    return f"{aligned(rows)}\nAP: average precision; P: precision and R: recall, at threshold 0.5 (.5) and at the tuned threshold."


def average_precision_bounds(metrics: Mapping[str, Any], genre: str) -> Sequence[float] | None:
    """Returns the interval of a genre's average precision; None if the genre has too few films to be judged.

    In simulations with 686 films the interval contained the true value 54 times of 100 for a genre of three films, and 87 times
    for a genre of ten.
    """
    if genre in metrics["unjudged"]["genres"]:
        return None
    bounds: Sequence[float] | None = metrics["intervals"]["per_genre"][genre]["average_precision"]
    return bounds


def data_name(metrics: Mapping[str, Any]) -> str:
    """Returns a name for the data set that was evaluated: whether it is the job's own, and the start of its fingerprint."""
    whose = "the job's own" if metrics["data"]["is_the_jobs"] else "another"
    return f"{whose} data set ({metrics['data']['fingerprint'][:12]})"


def format_value(value: float | None, bounds: Sequence[float] | None = None, *, decimals: int = 3) -> str:
    """Returns a metric as text, with its interval if it has one, such as "0.452 [0.431, 0.473]"; a dash if it is undefined."""
    if value is None:
        return "–"
    return f"{value:.{decimals}f}" + (f" [{bounds[0]:.{decimals}f}, {bounds[1]:.{decimals}f}]" if bounds else "")


def format_difference(value: float, bounds: Sequence[float]) -> str:
    """Returns a difference as text, with its interval, all signed, such as "+0.016 [-0.002, +0.034]"."""
    return f"{value:+.3f} [{bounds[0]:+.3f}, {bounds[1]:+.3f}]"
