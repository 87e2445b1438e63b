"""Programs from examples: a hidden program over lists is to be found by proposing programs and testing them.

A program is one to three steps out of forty (`primitives`); each function is one program, whatever its spelling, and a
checksum of what it does says whether it serves training or evaluation (`catalogue`). A question offers some steps and
shows three examples (`questions`); the tool `run_tests` says how many of these a program passes and shows the first
that it fails. Reward is 1 if the program in the answer passes ten other examples.

    appo train recipes/programs.yaml

Left out on purpose: imports of the parts, since a recipe names the task by this package alone.
"""

from appo.environments.programs.task import TASK

__all__ = ["TASK"]
