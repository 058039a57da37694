"""The server's part in a round without a broker: update files in, weights out, and how good they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from broker_server.checks import check_steps
from broker_server.program import Evaluator
from broker_server.strategies import ClientUpdate, Fleet
from broker_server.strategies.fedavg import FedAvg
from compression.progress import Report
from compression.spec import TrainableBundle, Weights, check_weights, weights_digest
from compression.updates import CodecError, decode_update
from edge_client.data import DataSource
from edge_client.training.features import ReadFile
from edge_client.wire.evaluation import EvaluationSums
from edge_client.wire.update_file import UpdateFile, UpdateFileError, UpdateHeader, read_update

MAX_EXAMPLES = 1_000_000  # that a site's claim counts for, as in `server.toml`


@dataclass(frozen=True, slots=True)
class Aggregated:
    """New global weights, and the updates that are in them by site."""

    weights: Weights
    sites: Mapping[str, UpdateHeader]


def aggregate_files(
    files: Sequence[Path],
    weights: Weights,
    bundle: TrainableBundle,
    *,
    max_examples: int = MAX_EXAMPLES,
    report: Report = lambda _what, _share: None,
) -> Aggregated:
    """One round of federated averaging from update files; one update in memory at a time.

    Raises:
        UpdateFileError: a file that is no update, for another model, from other weights, of another round, or
            of a site that is there already.
        SpecError: weights of another model.
    """
    check_weights(weights, bundle.spec)
    sites: dict[str, UpdateHeader] = {}
    updates = _updates(files, weights, bundle, sites, max_examples, report)
    _, step = FedAvg().aggregate({}, updates, Fleet(examples=0))
    moved = {name: array + step[name] for name, array in weights.items()}
    check_weights(moved, bundle.spec)
    return Aggregated(moved, sites)


def _updates(
    files: Sequence[Path],
    weights: Weights,
    bundle: TrainableBundle,
    sites: dict[str, UpdateHeader],
    max_examples: int,
    report: Report,
) -> Iterator[ClientUpdate]:
    base = weights_digest(weights)
    for number, path in enumerate(files):
        update = read_update(path)
        _check_header(path, update.header, base, bundle, sites)
        sites[update.header.site] = update.header
        delta = _delta(path, update, bundle)
        yield ClientUpdate(delta=delta, examples=min(update.header.training.examples, max_examples))
        report("aggregating", (number + 1) / len(files))


def _check_header(
    path: Path, header: UpdateHeader, base: str, bundle: TrainableBundle, sites: Mapping[str, UpdateHeader]
) -> None:
    if header.bundle != bundle.digest:
        raise UpdateFileError(f"{path} is for bundle {header.bundle[:16]}, this one is {bundle.digest[:16]}")
    if header.weights != base:
        raise UpdateFileError(f"{path} was trained from other weights, {header.weights[:16]}")
    if header.site in sites:
        raise UpdateFileError(f"{path}: a second update of {header.site}; each site needs its own --site")
    rounds = {known.round for known in sites.values()}
    if rounds and header.round not in rounds:
        raise UpdateFileError(f"{path} is for round {header.round}, the others for round {min(rounds)}")


def _delta(path: Path, update: UpdateFile, bundle: TrainableBundle) -> Weights:
    try:
        decoded = decode_update(update.payload, bundle.spec.tensors, model_digest=bundle.digest)
        check_steps(decoded, update.header.round)
    except (CodecError, ValueError) as exc:
        raise UpdateFileError(f"{path}: {exc}") from exc
    return decoded.delta


def evaluate_sites(
    weights: Weights,
    bundle: TrainableBundle,
    sites: Mapping[str, DataSource],
    *,
    extractor: ReadFile | None = None,
    report: Report = lambda _what, _share: None,
) -> dict[str, EvaluationSums]:
    """What the weights do on each site's examples, by the program that the devices run.

    Raises:
        SpecError: weights of another model.
        DataError: data that do not fit the model.
    """
    check_weights(weights, bundle.spec)
    results = {}
    for number, (name, source) in enumerate(sites.items()):
        results[name] = Evaluator(bundle, source, extractor=extractor)(weights)
        report(f"evaluating {name}", (number + 1) / len(sites))
    return results
