"""Weights to a vLLM server: by NCCL between GPUs, by files elsewhere.

A sender is made on every process of a training. All of them go through the weights, as to gather a sharded one needs
all; the first process alone talks to the server, and has it empty its prefix cache, which holds what the old weights
computed.

Left out on purpose: LoRA adapters. A server would ignore new weights of an adapter that it knows by name, so adapters
are merged.
"""

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import torch
from safetensors.torch import save_file

from appo.errors import UserError

SHARD_BYTES = 4 << 30
SILENCE = 3600.0  # seconds
Weights = Iterable[tuple[str, torch.Tensor]]


class FileTransfer:
    """Through a directory that trainer and server see.

    Args:
        url: The server.
        directory: In which a directory for this run is made; None: where temporary ones go on this machine.
        sends: Whether this process talks to the server.
    """

    def __init__(self, url: str, directory: str | Path | None = None, *, sends: bool = True) -> None:
        self.url, self.sends = url, sends
        if sends:
            self._own = tempfile.TemporaryDirectory(prefix="appo-weights-", dir=directory)
            self.directory = Path(self._own.name).absolute()
            self.directory.chmod(0o755)  # the server may run as somebody else
        self.version = 0

    def send(self, weights: Weights) -> None:
        """See `WeightTransfer`."""
        if not self.sends:
            for _ in weights:
                pass
            return
        self.version += 1
        final = self.directory / f"weights-{self.version:06d}"
        partial = final.with_name(f".{final.name}")
        partial.mkdir()
        _save(weights, partial)
        partial.rename(final)
        try:
            _post(self.url, "collective_rpc", {"method": "load_saved_weights", "args": [str(final)]})
            reset_prefix_cache(self.url)
        finally:
            shutil.rmtree(final, ignore_errors=True)


def _save(weights: Weights, directory: Path) -> None:
    """Writes tensors in files of at most `SHARD_BYTES` or one tensor."""
    shard: dict[str, torch.Tensor] = {}
    size = count = 0

    def flush() -> None:
        nonlocal shard, size, count
        count += 1
        save_file(shard, directory / f"model-{count:05d}.safetensors", metadata={"format": "pt"})
        shard, size = {}, 0

    for name, tensor in weights:
        if shard and size + tensor.nbytes > SHARD_BYTES:
            flush()
        shard[name] = tensor.detach().cpu().contiguous()
        size += tensor.nbytes
    flush()


class NCCLTransfer:
    """From GPU to GPU, by TRL's client of the server.

    Args:
        url, group_port: The server, and the port at which the processes meet.
        device: Of this process.
        sends: Whether this process talks to the server.
    """

    def __init__(self, url: str, group_port: int, device: torch.device, *, sends: bool = True) -> None:
        self.url, self.sends = url, sends
        self._metadata: list[tuple[str, str, list[int]]] | None = None
        if sends:
            from trl.generation.vllm_client import VLLMClient

            self._client = VLLMClient(base_url=url, group_port=group_port)
            self._client.init_communicator(device=device)

    def send(self, weights: Weights) -> None:
        """See `WeightTransfer`; goes through the weights twice at first, so that the server knows their sizes."""
        if self._metadata is None:
            self._metadata = [
                (name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)) for name, tensor in weights
            ]
        if self.sends:
            self._client.update_named_params(self._metadata, iter(weights))
            reset_prefix_cache(self.url)
        else:
            for _ in weights:
                pass


def reset_prefix_cache(url: str) -> None:
    """
    Raises:
        RuntimeError: where the cache could not be emptied: a request is open.
    """
    answer = _post(url, "reset_prefix_cache", {})
    if answer.get("success") is False:
        raise RuntimeError(f"{url} could not empty its prefix cache, which holds what other weights computed.")


def _post(url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    try:
        response = httpx.post(
            f"{url}/{path}", json=body, trust_env=False, timeout=httpx.Timeout(SILENCE, connect=30.0)
        )
    except httpx.TransportError as error:
        raise RuntimeError(f"{url} cannot be reached for new weights: {type(error).__name__} {error}") from error
    if response.status_code == 404:
        raise UserError(
            f"the vLLM server {url} takes no weights; start it with VLLM_SERVER_DEV_MODE=1 (docs/gpus.md)."
        )
    if response.status_code != 200:
        raise RuntimeError(
            f"{url}/{path} answered {response.status_code}: {response.text[:300]}; is the server started with "
            "--worker-extension-cls appo.engines.vllm_worker.WeightLoader, and does it see the directory?"
        )
    return response.json() if response.content else {}
