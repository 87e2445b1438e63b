"""What runs in vLLM's worker when new weights come.

In process `VLLMEngine` sends `load_parameters` there. A server gets `WeightLoader` when it is started:

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --worker-extension-cls appo.engines.vllm_worker.WeightLoader ...

which reads weights from files; `vllm_server.py` says the whole command. Left out on purpose: NCCL, which a server
needs no extension for.
"""

from collections.abc import Iterator
from typing import Any


def load_parameters(worker: Any, weights: Iterator[tuple[str, Any]]) -> None:
    """New weights from (name, tensor) pairs, all of which are taken: to gather one may need every process."""
    worker.reload_weights(weights_iterator=weights)
    for _ in weights:
        pass
    repack_tied_head(worker)


def repack_tied_head(worker: Any) -> None:
    """On a CPU vLLM keeps a packed copy of the output layer, and leaves it as it was where it shares its weights with
    the embeddings."""
    model = worker.model_runner.get_model()
    head = getattr(model, "lm_head", None)
    if head is not None and hasattr(head, "cpu_linear") and getattr(model.config, "tie_word_embeddings", False):
        head.quant_method.process_weights_after_loading(head)


class WeightLoader:
    """The worker's extension of a server."""

    def load_saved_weights(self, directory: str) -> None:
        """New weights from the safetensors files of a directory that the server sees."""
        self.reload_weights(weights_path=directory)  # type: ignore[attr-defined]
        repack_tied_head(self)
