"""An engine that knows the task of `examples/agents`: behind an endpoint it shows how an agent's turns should look."""

import json
import re

import orders

from appo.engines.base import Turn


class Teacher:
    """An engine that looks the order up, then answers; in code where it is asked for code."""

    def __init__(self, tokenizer):
        self.tokenizer, self.asked, self.busy = tokenizer, [], False

    def start(self, request):
        self.asked, self.busy = [*self.asked, request], True

    def step(self):
        turns, self.asked, self.busy = [self.turn(request) for request in self.asked], [], False
        return turns

    def turn(self, request):
        text = self.tokenizer.decode(request.token_ids)
        order, status = re.findall(r"[A-H]\d\d\b", text)[-1], re.findall("|".join(orders.STATUSES), text)
        call = json.dumps({"name": "order_status", "arguments": {"order": order}})
        written = f"It is {status[-1]}.<|im_end|>" if status else f"<tool_call>\n{call}\n</tool_call><|im_end|>"
        if "<code>" in text:
            code = f'final_answer("{status[-1]}")' if status else f'print(order_status("{order}"))'
            written = f"<code>\n{code}\n</code>"
        ids = self.tokenizer(written)["input_ids"]
        return Turn(request.id, ids, [0.0] * len(ids), "stop" if "<code>" in text else "eos")

    def close(self, id=None):
        pass

    abandon = close
