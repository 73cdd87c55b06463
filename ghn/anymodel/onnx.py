"""`predict_onnx`: predicted weights for an ONNX file, written into a copy of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ghn.anymodel.predict import AnyHypernetwork, Prediction, predict_params


def predict_onnx(
    path: str | Path,
    out: str | Path | None = None,
    *,
    hypernetwork: AnyHypernetwork | None = None,
    strict: bool = False,
    **sizes: int,
) -> Prediction:
    """All weights of a model in an ONNX file.

    The file's own weights serve as its initialiser: their scale is read, and leaves that are not predicted keep them.
    Running statistics stay as they are.

    Args:
        path: of the file.
        out: where a copy with the predicted weights is written, in the file's own types; None writes none.
        hypernetwork: that predicts; None takes the package's.
        strict: raise where a leaf is not predicted.
        sizes: of dimensions that the file leaves open, by name; 1 for those not named.

    Returns:
        The prediction; `params` maps the name of an initialiser to its array.

    Raises:
        ImportError: the package `onnx` is missing.
        architectures.onnx.OnnxError: no ONNX file, or a node that cannot be read, named.
        ValueError: `strict`, and a leaf is not predicted; `sizes` names a dimension that the file does not leave open.
    """
    from architectures.onnx import load

    model = load(path, **sizes)
    params, state = dict(model.params), dict(model.state)
    prediction = predict_params(
        model.apply, params, *model.inputs, state=state, hypernetwork=hypernetwork, strict=strict
    )
    if out is not None:
        kept = {row.path for row in prediction.report.rows if row.source == "initialiser"}
        weights = {  # JAX holds double precision as single: those predicted get the file's types, those kept stay exact
            name: old if name in kept else np.asarray(prediction.params[name]).astype(old.dtype)
            for name, old in model.params.items()
        }
        model.save(weights, out)
    return prediction
