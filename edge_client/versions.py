"""Getting to a version of the weights: what to fetch for it, and from what is fetched to the tensors."""

from __future__ import annotations

from compression.errors import BrambleError
from compression.sparsity import pruned_step
from compression.spec import ModelSpec, SpecError, TrainableBundle, Weights, check_weights, weights_digest
from compression.updates import CodecError, decode_update, unpack_model
from edge_client.session.blobs import BlobStore
from edge_client.wire.blobs import BlobRef
from edge_client.wire.weights import DeltaRef, WeightsRef


class TaskError(BrambleError, RuntimeError):
    """The task cannot be carried out; the message goes to the server as the reason."""


def read_bundle(blobs: BlobStore, ref: BlobRef) -> TrainableBundle:
    """Read a bundle from the store; raise `TaskError` if it is not one, `BlobError` if it is not there."""
    try:
        return TrainableBundle.from_bytes(blobs.read(ref))
    except SpecError as exc:
        raise TaskError(f"the training bundle cannot be read: {exc}") from exc


def steps_from(ref: WeightsRef, held_digest: str) -> tuple[DeltaRef, ...]:
    """The steps that lead from the weights held to a version; empty if they do not."""
    for index, step in enumerate(ref.steps):
        if step.from_digest == held_digest:
            return ref.steps[index:]
    return ()


def wanted_blobs(bundle: BlobRef | None, weights: WeightsRef | None, held_digest: str) -> list[BlobRef]:
    """What a device that holds some version must fetch for a task or a release."""
    wanted = [bundle] if bundle else []
    if weights and weights.digest != held_digest:
        steps = steps_from(weights, held_digest)
        cheaper = steps and sum(step.blob.size for step in steps) < weights.full.size
        wanted += [step.blob for step in steps] if cheaper else [weights.full]
    return wanted


def blobs_to(weights: WeightsRef | None) -> list[BlobRef]:
    """Every blob by which some device comes to a version: the whole, and each step."""
    return [weights.full, *(step.blob for step in weights.steps)] if weights else []


def read_version(
    blobs: BlobStore,
    ref: WeightsRef,
    spec: ModelSpec,
    *,
    model_digest: str,
    held: Weights | None,
    held_digest: str,
) -> Weights:
    """A version's tensors: by the steps from those held if the blobs of these are here, or from the whole.

    Raises:
        TaskError: what was fetched is not what was signed.
        BlobError: a blob is gone or damaged on disk.
    """
    weights = _stepped(blobs, ref, spec, model_digest, held, held_digest) or _unpacked(blobs, ref, spec)
    if weights_digest(weights) != ref.digest:
        raise TaskError(f"version {ref.version} of the weights does not have the digest it was signed with")
    return weights


def _stepped(
    blobs: BlobStore,
    ref: WeightsRef,
    spec: ModelSpec,
    model_digest: str,
    held: Weights | None,
    held_digest: str,
) -> Weights | None:
    steps = steps_from(ref, held_digest)
    if held is None or not steps or not all(blobs.has(step.blob) for step in steps):
        return None
    weights = held
    try:
        for step in steps:
            delta = decode_update(blobs.read(step.blob), spec.tensors, model_digest=model_digest).delta
            weights = stepped(weights, delta, spec, step.sparsity)
    except CodecError as exc:
        raise TaskError(f"a step to version {ref.version} cannot be read: {exc}") from exc
    return weights


def stepped(weights: Weights, delta: Weights, spec: ModelSpec, sparsity: float | None) -> Weights:
    """The next version's weights, the same on each device and on the server."""
    after = {name: array + delta[name] for name, array in weights.items()}
    return after if sparsity is None else pruned_step(weights, after, spec.tensors, sparsity)


def _unpacked(blobs: BlobStore, ref: WeightsRef, spec: ModelSpec) -> Weights:
    try:
        weights = unpack_model(blobs.read(ref.full), spec.tensors)
        check_weights(weights, spec)
    except (CodecError, SpecError) as exc:
        raise TaskError(f"version {ref.version} of the weights cannot be read: {exc}") from exc
    return weights
