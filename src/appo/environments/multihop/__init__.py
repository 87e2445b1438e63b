"""Multi-hop questions over a corpus of countries, capitals, currencies and languages, answered with a search.

    task: multihop
    task_args: {hops: [1, 3], form: words}

`world.py` is what there is to know, `corpus.py` the pages and their search, `questions.py` the chains, `forms.py` how
they are written, `environment.py` an episode, `demonstrations.py` the cold start with its flaws, `judge.py` what each
decision is worth, `task.py` all of it as a task. Needs `pip install 'appo[domains]'`.

Left out on purpose: questions with several answers, and numbers (area, population), which pages do not hold.
"""

from appo.environments.multihop.task import TASK

__all__ = ["TASK"]
