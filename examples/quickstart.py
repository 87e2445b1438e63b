"""APPO in ten lines: your model, your rows, your reward, your tools. Runs for a few seconds on a CPU.

The model and the environment are those of the embedded testbed; put your own in their place. For models with a
chat template for tools leave `tool_protocol` out and pass Python functions as `tools=[...]`, as in TRL.
"""

from appo import APPOConfig, APPOTrainer
from appo.environments.kinship import KinshipEnvironment, exact_answer, make_dataset, make_model

model, tokenizer = make_model()  # untrained: `make train` shows a cold start and real learning
args = APPOConfig("runs/quickstart", max_steps=4, max_completion_length=64, logging_steps=1, bf16=False)
args.tool_protocol = "tags"
trainer = APPOTrainer(
    model,
    reward_funcs=exact_answer,
    args=args,
    train_dataset=make_dataset(64, seed=0),
    processing_class=tokenizer,
    environment_factory=KinshipEnvironment,
)
trainer.train()
print("what each step decided: appo records runs/quickstart")
