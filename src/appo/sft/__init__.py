"""The cold start: supervised training on demonstrations and traces, on TRL's SFTTrainer."""
