"""An evaluation in words and as a table for the terminal; its sentences are the report's and the log's too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.evaluation.metrics.metrics import F1, POINTS
from trainer.process.tables import aligned

# The figures of an operating point, by their key in metrics.json.
OVERALL = {"precision": "precision", "recall": "recall"} | F1 | {"subset_accuracy": "all right", "hamming_loss": "wrong decisions"}


@dataclass(frozen=True)
class Verdict:
    """Whether the model clearly beats the better constant at an operating point, and a sentence that says so."""

    clear: bool
    sentence: str


def verdicts(metrics: Mapping[str, Any]) -> list[Verdict]:
    """Returns a verdict for each operating point, those that warn first.

    The model clearly beats a constant if the whole interval of the difference of their micro F1 is above 0, and the split has as
    many films as are asked of a genre: the resamples of a handful of films are too much alike. As far as it is known which films'
    posters are in another split too, all rests on the others.
    """
    return sorted((_verdict(metrics, point, name) for point, name in POINTS.items()), key=lambda verdict: verdict.clear)


def _verdict(metrics: Mapping[str, Any], point: str, name: str) -> Verdict:
    leaked = metrics["near_duplicates"] or {"films": 0}
    own = leaked["without"] if leaked["films"] else metrics
    if own is None:
        return Verdict(False, f"At {name} nothing can be said of the model: every poster of this split is in another one too.")
    films, which = own["examples"], " whose poster is in no other split" if leaked["films"] else ""
    if films < metrics["unjudged"]["least_films"]:
        return Verdict(False, f"At {name} nothing can be said of the model: this split has too few films{which} ({films}).")
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
    rule = f"a rule that never looks at a poster, “{baseline_name(own['baselines'][baseline])}”"
    scored = f"its micro F1 is {text(ours)}, the rule's {text(theirs)}"
    return Verdict(
        low > 0, f"{where} the model {opening} {rule}: {scored}, a difference of {difference(ours - theirs, bounds)}{closing}."
    )


def caution(metrics: Mapping[str, Any]) -> str:
    """Returns what part these films had, or may have had, in making the model; empty if it is known that they had none."""
    if not metrics["data"]["is_the_jobs"]:
        return (
            "These films are of another data set than the job's. Whether the model was trained on some of them, or thresholds,"
            " temperature and best epoch were chosen on some, is not known; it would flatter the figures."
        )
    if metrics["split"] == "train":
        return "The model was trained on these very films, so that all figures flatter it."
    if metrics["split"] == "validation":
        return "Thresholds, temperature and best epoch were chosen on these very films, so that the figures flatter the model."
    return ""


def better_baseline(metrics: Mapping[str, Any]) -> str:
    """Returns the key of the baseline with the higher micro F1 on the split."""
    return max(metrics["baselines"], key=lambda key: metrics["baselines"][key]["f1_micro"])


def baseline_name(baseline: Mapping[str, Any]) -> str:
    """Returns what a baseline of metrics.json does, such as "always Drama and Comedy"."""
    return "always " + " and ".join(baseline["genres"])


def by_support(metrics: Mapping[str, Any]) -> list[str]:
    """Returns the genres, those with most films in the split first; equals in the data set's order."""
    return sorted(metrics["per_genre"], key=lambda genre: -metrics["per_genre"][genre]["support"])


def unjudged(metrics: Mapping[str, Any]) -> str:
    """Returns which genres have too few films to be judged and what of them is in the means; empty where there is none."""
    least, genres = metrics["unjudged"]["least_films"], metrics["unjudged"]["genres"]
    if not genres:
        return ""
    named = [f"{genre} ({own['films']}{'' if own['train_films'] else ', none in training'})" for genre, own in genres.items()]
    supports = [own["support"] for own in metrics["per_genre"].values()]
    return (
        f"Not to be judged, with fewer than {least} films in this split or none in training: {', '.join(named)}. Their figures are"
        " chance more than skill, and stand without intervals. They count all the same: the macro F1 is the mean over all"
        f" {len(supports)} genres, the mean average precision over the {sum(map(bool, supports))} that a film here has;"
        f" {len(supports) - len(genres)} of them can be judged."
    )


def near_duplicates(metrics: Mapping[str, Any]) -> str:
    """Returns how many posters also occur in another split, and the figures without them."""
    own = metrics["near_duplicates"]
    if own is None and not metrics["data"]["is_the_jobs"]:
        return "Not known: whether posters of these films, or nearly the same ones, were among those that the model was trained on."
    if own is None:
        return "Not known: whether posters of this split also occur in another one. Prepare the data set again to find out."
    if not own["films"]:
        return "No poster of this split also occurs, or nearly so, in another one."
    counted = f"Posters of this split that also occur, or nearly so, in another one: {own['films']}"
    if own["without"] is None:
        return f"{counted}, which is all of them: the figures say nothing of new posters."
    rest, bounds = own["without"], own["without"]["intervals"]
    figures = [f"{name} {text(rest['tuned'][key], bounds['tuned'][key])}" for key, name in F1.items()]
    return (
        f"{counted}. Without them, on {rest['examples']} films: {', '.join(figures)} at tuned thresholds, mean average precision"
        f" {text(rest['mean_average_precision'], bounds['mean_average_precision'])}."
    )


def table(metrics: Mapping[str, Any]) -> str:
    """Returns the figures as text: the verdicts, the model beside the baselines, and each genre."""
    lines = [f"{'' if verdict.clear else 'WARNING: '}{verdict.sentence}" for verdict in verdicts(metrics)]
    level = f"{100 * metrics['intervals']['level']:g} %"
    head = f"{metrics['split']} split of {data_name(metrics)}, {metrics['examples']} films; [low, high] is the {level} interval"
    parts = ["\n".join(lines), caution(metrics), head, _split_figures(metrics), _comparison(metrics), _genre_figures(metrics)]
    parts += [unjudged(metrics), near_duplicates(metrics)]
    return "\n\n".join(part for part in parts if part)


def _split_figures(metrics: Mapping[str, Any]) -> str:
    own, calibration = metrics["intervals"], metrics["calibration"]
    before, after, constant = (text(calibration[of]["expected_calibration_error"]) for of in ("before", "after", "constant"))
    loss, constant_loss = text(metrics["loss"], own["loss"], decimals=4), text(calibration["constant"]["loss"], decimals=4)
    ranking = text(metrics["mean_average_precision"], own["mean_average_precision"])
    tempered = f"before the temperature of {calibration['temperature']:g}: {before}"
    rows = [
        ("loss", f"{loss} (of a constant: {constant_loss})"),
        ("accuracy", text(metrics["accuracy"], own["accuracy"])),
        ("mean average precision", f"{ranking} (by chance: {text(metrics['mean_average_precision_by_chance'])})"),
        ("ROC AUC", text(metrics["roc_auc"])),
        ("expected calibration error", f"{after} ({tempered}; of a constant: {constant})"),
        ("", "The constant's scores are each genre's frequency in training, for every film."),
    ]
    return "\n".join(f"{name:28}{figures}" for name, figures in rows)


def _comparison(metrics: Mapping[str, Any]) -> str:
    intervals, baselines = metrics["intervals"], metrics["baselines"]
    rows = [["", *(f"model, {name}" for name in POINTS.values()), *map(baseline_name, baselines.values())]]
    for key, name in OVERALL.items():
        ours = [text(metrics[point][key], intervals[point].get(key)) for point in POINTS]
        rows.append([name, *ours, *(text(baseline[key]) for baseline in baselines.values())])
    for baseline, figures in baselines.items():
        for key, name in F1.items():
            gains = [
                difference(metrics[point][key] - figures[key], intervals["differences"][point][baseline][key]) for point in POINTS
            ]
            rows.append([f"{name}, lead over {baseline_name(figures)}", *gains, *[""] * len(baselines)])
    return aligned(rows)


def _genre_figures(metrics: Mapping[str, Any]) -> str:
    columns = ["films", "AP", "ROC AUC", *(f"{key} {mark}" for mark in (".5", "tuned") for key in ("P", "R", "F1"))]
    rows = [["genre", *columns, "threshold"]]
    for genre in by_support(metrics):
        figures = metrics["per_genre"][genre]
        bounds = average_precision_bounds(metrics, genre)
        row = [genre, str(figures["support"]), text(figures["average_precision"], bounds), text(figures["roc_auc"])]
        row += [text(figures[point][key]) for point in POINTS for key in ("precision", "recall", "f1")]
        rows.append([*row, text(metrics["tuned"]["thresholds"][genre])])
    return aligned(rows)


def average_precision_bounds(metrics: Mapping[str, Any], genre: str) -> Sequence[float] | None:
    """Returns the interval of a genre's average precision; None where the genre cannot be judged.

    Where three of 686 simulated films had the genre, its interval held what it should 54 times of 100, with ten of them 87 times.
    """
    if genre in metrics["unjudged"]["genres"]:
        return None
    bounds: Sequence[float] | None = metrics["intervals"]["per_genre"][genre]["average_precision"]
    return bounds


def data_name(metrics: Mapping[str, Any]) -> str:
    """Returns which data set the films are of, by its fingerprint's beginning."""
    whose = "the job's own" if metrics["data"]["is_the_jobs"] else "another"
    return f"{whose} data set ({metrics['data']['fingerprint'][:12]})"


def text(figure: float | None, bounds: Sequence[float] | None = None, *, decimals: int = 3) -> str:
    """Returns a figure, with its interval if there is one, such as "0.452 [0.431, 0.473]"; a dash for one that is undefined."""
    if figure is None:
        return "–"
    return f"{figure:.{decimals}f}" + (f" [{bounds[0]:.{decimals}f}, {bounds[1]:.{decimals}f}]" if bounds else "")


def difference(figure: float, bounds: Sequence[float]) -> str:
    """Returns a difference with its interval and their signs, such as "+0.016 [-0.002, +0.034]"."""
    return f"{figure:+.3f} [{bounds[0]:+.3f}, {bounds[1]:+.3f}]"
