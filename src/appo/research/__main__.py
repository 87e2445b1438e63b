"""`python -m appo.research STUDY [--field value ..]`: many runs of several methods, compared (docs/study.md).

`appo study` is the same. With `--dry-run` it shows the plan and every mistake, and runs nothing. Only the standard
library is imported at first, so that mistakes answer at once.
"""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from appo.cli.main import answer
from appo.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Runs a study; returns the exit code: 0, or 2 after a mistake in the file or the flags."""
    if not arguments or arguments[0] in ("-h", "--help"):
        from appo.research import plan

        print(plan.__doc__, end="")
        print(plan.Study.__doc__)
        return 0 if arguments else 2

    def work() -> int:
        flags = study_flags(arguments[1:])
        if flags.pop("dry_run", False):
            from appo.research.dry_run import dry_run

            return dry_run(arguments[0], flags)
        if find_spec("scipy") is None:  # or it would be missed when all runs are done
            raise UserError("a study needs the package scipy; run `pip install 'appo[research]'`.")
        from appo.research.schedule import study

        study(arguments[0], flags)
        return 0

    return answer(work, "next time the study goes on with the runs that are missing.")


def study_flags(flags: Sequence[str]) -> dict[str, Any]:
    """Fields of a study by name; values are YAML, and `--overwrite` and `--dry-run` may stand alone.

    Raises:
        UserError: for a flag without a value, a value without a flag, and what is no YAML.
    """
    import yaml

    from appo.cli.field_values import parse, resolve
    from appo.cli.recipe import RecipeError

    values, left = {}, list(flags)
    while left:
        flag = left.pop(0)
        flag = "--dry_run" if flag == "--dry-run" else flag
        alone = flag in ("--overwrite", "--dry_run") and (not left or left[0].startswith("--"))
        if not flag.startswith("--") or not (left or alone):
            raise RecipeError("flags come in pairs, --field value, for example --test_seeds 4.")
        try:
            values[flag.removeprefix("--")] = True if alone else resolve(parse(left.pop(0)))
        except yaml.YAMLError as error:
            raise RecipeError(f"a flag's value is not readable YAML: {' '.join(str(error).split())}.") from None
    return values


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
