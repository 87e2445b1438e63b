"""A run of verl's on the kinship testbed: a tiny model after a short cold start, its data, and the command.

python tests/with_verl/kinship_run.py DIRECTORY [NAME=VALUE ..]
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from watched import WatchedAPPO  # noqa: F401  what the command names

from appo.environments import kinship

HERE = Path(__file__).parent
RESULT = " <result> {} </result> "
FLOAT32 = "{param_dtype: fp32, reduce_dtype: fp32, buffer_dtype: fp32}"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
INITIAL, BRANCHES = 4, 1  # of each task: N, and B for each of them
COLD_STEPS = 150
STYLE = kinship.Style(hops=(1, 1), before=(1, 3))  # easy questions: some are answered rightly after so short a start


def make_policy(directory):
    """A model that searches and answers, though not always rightly, and its tokenizer; saved."""
    torch.manual_seed(0)
    model, tokenizer = kinship.make_model()
    tokenizer.chat_template = TEMPLATE
    encoded = [encode(tokenizer, one) for one in kinship.make_demonstrations(1000, seed=0, style=STYLE)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(COLD_STEPS):
        rows = [encoded[i] for i in torch.randint(len(encoded), (32,), generator=generator).tolist()]
        width = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in rows])
        labels = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in rows])
        loss = model(ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return loss.item()


def encode(tokenizer, demonstration):
    """Token ids, and labels without those of the prompt and of results."""
    ids = tokenizer(demonstration.prompt, add_special_tokens=False)["input_ids"]
    labels = [-100] * len(ids)
    for segment in demonstration.segments:
        own = tokenizer(segment.text, add_special_tokens=False)["input_ids"]
        ids, labels = ids + own, labels + (own if segment.trained else [-100] * len(own))
    return ids, labels


def make_data(path):
    """Questions as verl's data sets have them; the columns of the testbed's own stay."""
    rows = kinship.make_dataset(16, seed=3, style=STYLE)
    rows = rows.map(
        lambda row, index: {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "data_source": "kinship",
            "reward_model": {"style": "rule", "ground_truth": row["answer"]},
            "extra_info": {"index": index},
        },
        with_indices=True,
    )
    rows.to_parquet(str(path))


def overrides(directory, changes):
    """What is added to verl's defaults; `changes` by name, None to leave something out."""
    method_args = (
        f"{{num_initial_rollouts: {INITIAL}, num_branch_points: {BRANCHES}, directory: {directory / 'watched'}}}"
    )
    model, data = directory / "policy", directory / "questions.parquet"
    ours = {
        "trainer.v1.trainer_mode": "appo",
        "actor_rollout_ref.rollout.agent.default_agent_loop": "appo",
        "+trainer.v1.appo.method": "watched:WatchedAPPO",
        "+trainer.v1.appo.method_args": method_args,
        "+trainer.v1.appo.tool_protocol": "tags",
        "+trainer.v1.appo.result_format": json.dumps(RESULT),
        "+trainer.v1.appo.environment": "appo.environments.kinship:KinshipEnvironment",
        "+trainer.v1.appo.reward_funcs": "[appo.environments.kinship:exact_answer]",
        "actor_rollout_ref.rollout.n": INITIAL,
        "actor_rollout_ref.actor.ppo_mini_batch_size": 2,
        "actor_rollout_ref.actor.loss_agg_mode": "seq-mean-token-mean",
        "actor_rollout_ref.actor.clip_ratio_high": 0.28,
        "actor_rollout_ref.actor.optim.optimizer": "SGD",
        "actor_rollout_ref.actor.optim.lr": 0.1,
        "actor_rollout_ref.actor.optim.weight_decay": 0,
        "actor_rollout_ref.rollout.calculate_log_probs": True,
        "actor_rollout_ref.model.path": model,
        "data.train_files": data,
        "data.val_files": data,
        "data.train_batch_size": 4,
        "data.shuffle": False,
        "data.max_prompt_length": 16,
        "data.max_response_length": 64,
        "trainer.total_training_steps": 2,
        "trainer.default_local_dir": directory / "checkpoints",
    }
    # What a machine without an accelerator needs besides.
    cpu = {
        "trainer.device": "cpu",
        "trainer.n_gpus_per_node": 2,
        "trainer.val_before_train": False,
        "trainer.test_freq": -1,
        "trainer.save_freq": -1,
        "trainer.logger": "[console,file]",
        "data.dataloader_num_workers": 0,
        "actor_rollout_ref.model.use_remove_padding": False,
        "+actor_rollout_ref.model.override_config.attn_implementation": "sdpa",
        "actor_rollout_ref.model.enable_gradient_checkpointing": False,
        "actor_rollout_ref.actor.strategy": "fsdp2",
        "actor_rollout_ref.actor.fsdp_config.strategy": "fsdp2",
        "actor_rollout_ref.actor.fsdp_config.use_torch_compile": False,
        "actor_rollout_ref.actor.use_torch_compile": False,
        "actor_rollout_ref.actor.fsdp_config.model_dtype": "fp32",
        "actor_rollout_ref.actor.fsdp_config.dtype": "float32",
        "+actor_rollout_ref.actor.fsdp_config.mixed_precision": FLOAT32,
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 2,
        "actor_rollout_ref.rollout.name": "appo_cpu",
        "actor_rollout_ref.rollout.tensor_model_parallel_size": 1,
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 2,
        "actor_rollout_ref.rollout.agent.num_workers": 1,
        "actor_rollout_ref.rollout.load_format": "auto",
        "reward.num_workers": 1,
        "algorithm.adv_estimator": "grpo",
        # With fewer, Ray hangs on a small machine.
        "ray_kwargs.ray_init.num_cpus": 32,
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
        "+ray_kwargs.ray_init.num_gpus": 2,
        "+ray_kwargs.ray_init.include_dashboard": False,
        "+ray_kwargs.ray_init.object_store_memory": 200_000_000,
    }
    found = {**ours, **cpu, **changes}
    return [f"{name}={value}" for name, value in found.items() if value is not None]


def environment(directory):
    """Of a process that runs verl on CPUs, and logs into `directory/metrics.jsonl`."""
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "VERL_FILE_LOGGER_PATH": str(directory / "metrics.jsonl"),
        "VERL_PLATFORM": "appo_cpu",
        "VERL_USE_EXTERNAL_MODULES": "cpu_plugin,appo.integrations.verl.plugin",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HYDRA_FULL_ERROR": "1",
        "RAY_DEDUP_LOGS": "0",
        "RAY_memory_monitor_refresh_ms": "0",
    }


def run(directory, changes=None, timeout=600):
    """Runs verl; its output is in `directory/log`.

    Returns:
        The finished process.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / "policy").exists():
        make_policy(directory / "policy")
    make_data(directory / "questions.parquet")
    (directory / "watched").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "verl.trainer.main_ppo", *overrides(directory, changes or {})]
    with open(directory / "log", "w") as log:
        return subprocess.run(
            command, env=environment(directory), stdout=log, stderr=subprocess.STDOUT, timeout=timeout, cwd=directory
        )


if __name__ == "__main__":
    finished = run(Path(sys.argv[1]).resolve(), dict(text.split("=", 1) for text in sys.argv[2:]))
    print((Path(sys.argv[1]) / "log").read_text()[-3000:])
    sys.exit(finished.returncode)
