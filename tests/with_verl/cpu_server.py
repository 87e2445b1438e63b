"""A rollout server for tests: a Ray actor with a transformers model, asked and fed as verl does with vLLM."""

import os

import ray
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from verl.workers.rollout.base import _ROLLOUT_REGISTRY, BaseRollout
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput

NAME = "appo_cpu"


@ray.remote(num_cpus=0)
class Server:
    """Writes one sequence after another; stop strings end a turn as in vLLM."""

    def __init__(self, path):
        torch.set_num_threads(1)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.version = None

    async def generate(self, prompt_ids, sampling_params, request_id, **others):
        sampling = dict(sampling_params)
        ids, logprobs = [], []
        generator = torch.Generator().manual_seed(int(sampling["seed"]))
        ends = {self.tokenizer.eos_token_id, *sampling.get("stop_token_ids", ())}
        with torch.inference_mode():
            cache, fed = None, list(prompt_ids)
            while len(ids) < sampling["max_tokens"]:
                output = self.model(torch.tensor([fed]), past_key_values=cache, use_cache=True)
                cache = output.past_key_values
                # Temperature 0, as verl validates, takes the likeliest.
                temperature = sampling["temperature"] or 1e-6
                logps_V = torch.log_softmax(output.logits[0, -1].float() / temperature, -1)
                token = int(torch.multinomial(logps_V.exp(), 1, generator=generator))
                ids.append(token)
                logprobs.append(float(logps_V[token]))
                fed = [token]
                text = self.tokenizer.decode(ids[-4:])
                if token in ends or any(stop in text for stop in sampling.get("stop", ())):
                    break
        return TokenOutput(
            token_ids=ids, log_probs=logprobs, stop_reason="completed", extra_fields={"global_steps": self.version}
        )

    async def load(self, weights, version):
        unexpected = self.model.load_state_dict(weights, strict=False).unexpected_keys
        assert not unexpected, unexpected
        self.version = version

    async def nothing(self, *args, **kwargs):
        pass

    wake_up = sleep = clear_kv_cache = set_global_steps = abort_all_requests = resume_generation = nothing
    release_kv_cache = resume_kv_cache = nothing


def name_of(rank):
    return f"{NAME}_server_{rank}"


class Replica(RolloutReplica):
    """One server per rank."""

    async def launch_servers(self):
        options = Server.options(name=name_of(self.replica_rank), max_concurrency=64)
        self._server_handle = options.remote(self.model_config.path)
        self.servers, self._server_address = [self._server_handle], name_of(self.replica_rank)


class ServerAdapter(BaseRollout):
    """What a worker gives its weights to."""

    async def resume(self, tags):
        pass

    async def release(self):
        pass

    async def update_weights(self, weights, global_steps=None, **others):
        whole = {
            name: (weight.full_tensor() if hasattr(weight, "full_tensor") else weight).detach().cpu().float().clone()
            for name, weight in weights
        }
        await ray.get_actor(name_of(os.environ["RANK"])).load.remote(whole, global_steps)


_ROLLOUT_REGISTRY[(NAME, "async")] = "cpu_server.ServerAdapter"
RolloutReplicaRegistry.register(NAME, lambda: Replica)
