"""`EndpointSource`: vectors of a server that speaks the Open Inference Protocol, such as `hotstream serve`."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.errors import ReplicaError
from trainer.serving.audit import Answer

__all__ = ["EndpointSource"]

_HEADER = "Inference-Header-Content-Length"
_TIMEOUT_S = 30.0


class EndpointSource:
    """Asks a server.

    Args:
        url: its address, such as `http://localhost:8000`.
        model: the name of the model.
        token: what the server asks for; None for nothing.

    Attributes:
        name: the address.
    """

    def __init__(self, url: str, *, model: str = "hotstream", token: str | None = None) -> None:
        self.name = url.rstrip("/")
        self._url = f"{self.name}/v2/models/{model}/infer"
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def ask(self, keys: npt.NDArray[np.uint64]) -> Answer:
        """The vectors of keys (K,).

        Raises:
            ReplicaError: the server does not answer, refuses, or answers something else.
        """
        tensor = {
            "name": "keys", "datatype": "UINT64", "shape": [len(keys)], "parameters": {"binary_data_size": keys.nbytes}
        }  # fmt: skip
        wanted = {"name": "vectors", "parameters": {"binary_data": True}}
        text = json.dumps({"inputs": [tensor], "outputs": [wanted]}).encode()
        body, size = self._post(text + keys.astype("<u8").tobytes(), len(text))
        try:
            head: dict[str, Any] = json.loads(body[:size])
            (output,) = head["outputs"]
            vectors = np.frombuffer(body[size:], "<f4").reshape(output["shape"])
        except (ValueError, KeyError, TypeError) as error:
            raise ReplicaError(f"{self._url}: got {body[:100]!r}, expected vectors ({error})") from error
        known = head.get("parameters", {})
        return Answer(vectors=vectors, step=known.get("step"), time_ms=known.get("time_ms"))

    def _post(self, body: bytes, size: int) -> tuple[bytes, int]:
        request = urllib.request.Request(self._url, body, {_HEADER: str(size), **self._headers})  # noqa: S310  checked
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                content = answer.read()
                return content, int(answer.headers.get(_HEADER, len(content)))
        except urllib.error.HTTPError as error:
            with error:
                reason = error.read(500).decode(errors="replace")
            raise ReplicaError(f"{self._url}: got {error.code} {reason}, expected 200") from error
        except OSError as error:
            raise ReplicaError(f"{self._url}: no answer ({error}); is the server running there?") from error
