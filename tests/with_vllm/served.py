"""A vLLM server for tests, with the testbed's model; stopped when the tests of a file are done."""

import contextlib
import os
import socket
import subprocess
import sys
import time

import httpx
from vllm_parts import make_model

ARGUMENTS = (
    "--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", "32", "--block-size", "32", "--enforce-eager",
    "--logprobs-mode", "processed_logprobs", "--enable-prompt-tokens-details", "--kv-cache-memory-bytes", "64M",
    "--worker-extension-cls", "appo.engines.vllm_worker.WeightLoader",
)  # fmt: skip


@contextlib.contextmanager
def served(directory, *arguments):
    """The address of a server of `make_model`, saved in `directory`; arguments replace those above."""
    model, tokenizer = make_model()
    model.generation_config.repetition_penalty = 1.9  # which a server would take where it is not told another
    model.save_pretrained(directory / "model")
    tokenizer.save_pretrained(directory / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_LOGGING_LEVEL": "ERROR"}
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(directory / "model")]
    command += ["--host", "127.0.0.1", "--port", str(port), *ARGUMENTS, *arguments]
    with (directory / "server.log").open("w") as log:
        process = subprocess.Popen(command, env={**os.environ, **own}, stdout=log, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(url, process, directory / "server.log")
            yield url
        finally:
            process.terminate()
            process.wait(timeout=60)


def wait_for(url, process, log):
    """Until the server answers."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                return
        time.sleep(0.5)
    raise RuntimeError(f"the server did not start: {log.read_text()[-3000:]}")
