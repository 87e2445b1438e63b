"""What verl loads by itself, in each of its processes, where `appo` is installed: the trainer `appo` and the agent
loop `appo` are known by their names then.

verl swallows an error of an entry point. `VERL_USE_EXTERNAL_MODULES=appo.integrations.verl.plugin` shows it.
"""

from appo.integrations.verl.agent_loop import APPOAgentLoop
from appo.integrations.verl.trainer import APPOTrainerSync

__all__ = ["APPOAgentLoop", "APPOTrainerSync"]
