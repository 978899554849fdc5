"""The model that `mlflow models serve` answers with. MLflow runs this file itself when it loads the model.

It stands in the model's folder beside `artifacts/best.safetensors` and `code/pipeline`, a copy of this package, so
that nothing of the model is a pickle.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext, scoring_server
from pydantic import BaseModel

from pipeline.errors import PipelineError
from pipeline.prediction.estimator import DepthEstimator
from pipeline.prediction.requested import depth_as_json, depth_of_requested

MAX_BODY = 32 * 2**20
"""Bytes of a request. One of this size that is nothing but empty lists takes 1.7 GB and a minute."""
LONGEST_SENTENCE = 300

Endpoint = Callable[[Any], Awaitable[Any]]


class DepthMap(BaseModel):
    """What is answered for an image."""

    depth_m: list[list[float]]
    """rows of pixels, metres from the camera's plane"""
    height: int
    width: int
    unit: str


class DepthModel(PythonModel):
    """Depth in metres of images that come as base64 or as pixels."""

    def load_context(self, context: PythonModelContext) -> None:
        self.estimator = DepthEstimator(Path(context.artifacts["checkpoint"]))

    # MLflow makes the signature of these types; that of its own method stands for every form of it.
    def predict(  # type: ignore[override]
        self, model_input: list[str | list[list[list[int]]]]
    ) -> list[DepthMap]:
        try:
            depths_m = depth_of_requested(self.estimator, model_input)
        except PipelineError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        # Not validated: twelve million numbers of our own.
        return [depth_as_json(depth_m) for depth_m in depths_m]  # type: ignore[misc]


def guarded(endpoint: Endpoint) -> Endpoint:
    """MLflow's endpoint with one sentence for each error, and with a limit to what a request may take of memory.

    MLflow's own wrapper, whose place this takes, repeats the whole request in its errors, tells stack traces, and
    reads bodies of any size, in any number at a time. Other formats than JSON are refused: tables add nothing here,
    and Parquet inflates.
    """
    from fastapi import Request
    from fastapi.responses import JSONResponse

    turn = asyncio.Semaphore(1)

    @functools.wraps(endpoint)
    async def answer(request: Request) -> Any:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != scoring_server.CONTENT_TYPE_JSON:
            return refused(415, "send JSON, with the header Content-Type: application/json")
        body = bytearray()
        async for piece in request.stream():
            # To its end, or the client would see a broken connection instead of the answer.
            if len(body) <= MAX_BODY:
                body += piece
        if len(body) > MAX_BODY:
            return refused(413, f"the request has more than {MAX_BODY} bytes; send fewer images, or smaller ones")

        async def replay() -> dict[str, Any]:
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        try:
            async with turn:
                return await endpoint(Request(request.scope, replay))
        except MlflowException as error:
            if trace := error.json_kwargs.get("stack_trace"):
                logging.getLogger("uvicorn.error").error(trace)
                return refused(500, "the model failed at this request; the server's log says why")
            if isinstance(error.__cause__, PipelineError):
                return refused(400, str(error.__cause__))
            # In front of what was raised stands the request.
            return refused(error.get_http_status_code(), misread(error.message.rpartition("\nError: ")[2]))
        except (RecursionError, ValueError) as error:  # of the JSON, which MLflow does not expect
            return refused(400, misread(str(error)))

    def misread(reason: str) -> str:
        return f'the request is no JSON of the form {{"inputs": [image, ...]}}: {reason}'

    def refused(status: int, sentence: str) -> JSONResponse:
        code = "INVALID_PARAMETER_VALUE" if status < 500 else "INTERNAL_ERROR"
        first = sentence.partition("\n")[0][:LONGEST_SENTENCE]
        return JSONResponse({"error_code": code, "message": first}, status)

    return answer


if "mlflow.pyfunc.scoring_server.app" in sys.modules:
    # This process is a server that MLflow starts: it has yet to make its endpoint, which it wraps with this. MLflow
    # has no other place for it; the model's requirements name the version whose name it is.
    scoring_server._async_catch_mlflow_exception = guarded

set_model(DepthModel())
