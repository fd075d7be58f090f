"""An evaluation in words and as a table for the terminal; its sentences are the report's and the log's too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.evaluation.metrics import F1, POINTS
from trainer.tables import aligned

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
    many films as are asked of a genre: the resamples of a handful of films are too much alike.
    """
    return sorted((_verdict(metrics, point, name) for point, name in POINTS.items()), key=lambda verdict: verdict.clear)


def _verdict(metrics: Mapping[str, Any], point: str, name: str) -> Verdict:
    films = metrics["examples"]
    if films < metrics["unjudged"]["least_films"]:
        return Verdict(False, f"At {name} nothing can be said of the model: this split has too few films ({films}).")
    baseline = better_baseline(metrics)
    ours, theirs = metrics[point]["f1_micro"], metrics["baselines"][baseline]["f1_micro"]
    low, high = bounds = metrics["intervals"]["differences"][point][baseline]["f1_micro"]
    if low > 0:
        opening, closing = "clearly better than", ""
    elif high < 0:
        opening, closing = "WORSE than", ""
    else:
        opening, closing = "NOT clearly better than", ", which may be chance"
    rule = f"a rule that never looks at a poster, “{baseline_name(metrics['baselines'][baseline])}”"
    scored = f"its micro F1 is {text(ours)}, the rule's {text(theirs)}"
    return Verdict(
        low > 0, f"At {name} the model is {opening} {rule}: {scored}, a difference of {difference(ours - theirs, bounds)}{closing}."
    )


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
        f" chance more than skill. They count all the same: the macro F1 is the mean over all {len(supports)} genres, the mean"
        f" average precision over the {sum(map(bool, supports))} that a film here has; {len(supports) - len(genres)} of them can be"
        " judged."
    )


def near_duplicates(metrics: Mapping[str, Any]) -> str:
    """Returns how many posters also occur in another split, and the figures without them."""
    own = metrics["near_duplicates"]
    if own is None:
        return "Not known: whether posters of this split also occur in another one. Prepare the data set again to find out."
    if not own["films"]:
        return "No poster of this split also occurs, or nearly so, in another one."
    counted = f"Posters of this split that also occur, or nearly so, in another one: {own['films']}"
    if own["without"] is None:
        return f"{counted}, which is all of them: the figures say nothing of new posters."
    rest = own["without"]
    figures = [f"{name} {text(rest['tuned'][key])}" for key, name in F1.items()]
    return (
        f"{counted}. Without them, on {rest['examples']} films: {', '.join(figures)} at tuned thresholds, mean average precision"
        f" {text(rest['mean_average_precision'])}."
    )


def table(metrics: Mapping[str, Any]) -> str:
    """Returns the figures as text: the verdicts, the model beside the baselines, and each genre."""
    lines = [f"{'' if verdict.clear else 'WARNING: '}{verdict.sentence}" for verdict in verdicts(metrics)]
    level = f"{100 * metrics['intervals']['level']:g} %"
    head = f"{metrics['split']} split, {metrics['examples']} films; [low, high] is the {level} interval"
    parts = ["\n".join(lines), head, _split_figures(metrics), _comparison(metrics), _genre_figures(metrics), unjudged(metrics)]
    parts.append(near_duplicates(metrics))
    return "\n\n".join(part for part in parts if part)


def _split_figures(metrics: Mapping[str, Any]) -> str:
    own, calibration = metrics["intervals"], metrics["calibration"]
    before, after = (text(calibration[when]["expected_calibration_error"]) for when in ("before", "after"))
    rows = [
        ("loss", text(metrics["loss"], own["loss"], decimals=4)),
        ("accuracy", text(metrics["accuracy"], own["accuracy"])),
        ("mean average precision", text(metrics["mean_average_precision"], own["mean_average_precision"])),
        ("ROC AUC", text(metrics["roc_auc"])),
        ("expected calibration error", f"{after} (before the temperature of {calibration['temperature']:g}: {before})"),
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
        bounds = metrics["intervals"]["per_genre"][genre]["average_precision"]
        row = [genre, str(figures["support"]), text(figures["average_precision"], bounds), text(figures["roc_auc"])]
        row += [text(figures[point][key]) for point in POINTS for key in ("precision", "recall", "f1")]
        rows.append([*row, text(metrics["tuned"]["thresholds"][genre])])
    return aligned(rows)


def text(figure: float | None, bounds: Sequence[float] | None = None, *, decimals: int = 3) -> str:
    """Returns a figure, with its interval if there is one, such as "0.452 [0.431, 0.473]"; a dash for one that is undefined."""
    if figure is None:
        return "–"
    return f"{figure:.{decimals}f}" + (f" [{bounds[0]:.{decimals}f}, {bounds[1]:.{decimals}f}]" if bounds else "")


def difference(figure: float, bounds: Sequence[float]) -> str:
    """Returns a difference with its interval and their signs, such as "+0.016 [-0.002, +0.034]"."""
    return f"{figure:+.3f} [{bounds[0]:+.3f}, {bounds[1]:+.3f}]"
