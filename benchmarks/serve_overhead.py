"""What the endpoint adds to a request: its time over HTTP, less that of the engine for the same tokens.

    python benchmarks/serve_overhead.py                      a tiny model, OpenAI's client
    python benchmarks/serve_overhead.py --requests 400 --turns 8 --clients 4

Each round asks twice in turn: the engine alone, in this thread, for a prompt and a number of tokens; and the endpoint,
by OpenAI's client over loopback, for the same (the same seed, so that it writes the same tokens, which is checked).
Medians and the quickest tenth are told for the first turn of a conversation and for later ones, which hold more;
`--clients` adds others that ask all the while. The client's own work is measured too, with a server that answers at
once. `--clock cpu` counts this process' CPU time in all threads, client included, for a machine that has other work.

Left out on purpose: a check against a bound; a shared machine has none.
"""

import argparse
import json
import statistics
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import openai
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from local_server import LocalServer
from serve_parts import make_endpoint, serving
from taught_model import THINKING, taught, turns_of

from appo.engines.base import Request
from appo.engines.transformers_engine import TransformersEngine

QUESTION = {"role": "user", "content": "Weather in Paris?"}
TOKENS = 16
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = time.perf_counter


def weather(city: str) -> str:
    """Tells the weather.

    Args:
        city: The city.
    """
    return f"It is hot in {city}."


def engine_seconds(engine: TransformersEngine, ids: list[int], seed: int) -> tuple[float, list[int]]:
    """Seconds that the engine takes alone, and what it writes."""
    begin = clock()
    engine.start(Request(0, ids, TOKENS, seed, temperature=1.0))
    while True:
        for turn in engine.step():
            engine.close(0)
            return clock() - begin, turn.token_ids


def ask(client: openai.OpenAI, messages: list, seed: int):
    extra = {"return_token_ids": True}
    return client.chat.completions.create(
        model="policy", messages=messages, max_tokens=TOKENS, seed=seed, temperature=1.0, extra_body=extra
    )


def clients_own_seconds(answer: dict, messages: list, rounds: int) -> list[float]:
    """Seconds of OpenAI's client with a server that has the answer ready."""
    body = json.dumps(answer).encode()

    class Ready(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = LocalServer(Ready)
    client = openai.OpenAI(base_url=server.url, api_key="x")
    seconds = []
    for _ in range(rounds):
        begin = clock()
        ask(client, messages, 0)
        seconds.append(clock() - begin)
    server.close()
    return seconds


def other(url: str, name: int, done: threading.Event) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=f"other {name}")
    while not done.is_set():
        ask(client, [QUESTION], name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--turns", type=int, default=4, help="turns of each conversation")
    parser.add_argument("--clients", type=int, default=0, help="others that ask all the while")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="what seconds are")
    options = parser.parse_args()
    global clock
    clock = CLOCKS[options.clock]
    torch.set_num_threads(1)
    model, tokenizer = taught(turns_of(QUESTION["content"], [("weather", {"city": "Rome"})], ["x"], [weather]), 1)
    model.eval()
    alone = TransformersEngine(
        model, pad_token_id=tokenizer.pad_token_id, eos_token_ids={tokenizer.eos_token_id}, tokenizer=tokenizer
    )
    over: dict[str, list[float]] = {"first turn": [], "later turns": []}
    tokens, engines, done = [], [], threading.Event()
    with serving(make_endpoint(model, tokenizer, chat_template_kwargs=THINKING)) as url:
        threads = [threading.Thread(target=other, args=(url, n, done)) for n in range(options.clients)]
        for thread in threads:
            thread.start()
        for number in range(options.requests):
            if number % options.turns == 0:
                client = openai.OpenAI(base_url=f"{url}/v1", api_key=f"talk {number}")
                ask(client, [{"role": "user", "content": "warm"}], 0)  # connects
                messages = [QUESTION]
            begin = clock()
            answer = ask(client, messages, number)
            seconds = clock() - begin
            engine, written = engine_seconds(alone, answer.prompt_token_ids, number)
            if not options.clients and written != answer.choices[0].token_ids:
                raise SystemExit("the endpoint wrote other tokens than the engine")
            engines.append(engine)
            tokens.append(len(answer.prompt_token_ids))
            over["later turns" if len(messages) > 1 else "first turn"].append(seconds - engine)
            messages = [*messages, {"role": "assistant", "content": answer.choices[0].message.content}, QUESTION]
        done.set()
        for thread in threads:
            thread.join()
    own = clients_own_seconds(answer.model_dump(), messages, 50)
    print(f"{options.requests} requests of {TOKENS} tokens, prompts of {min(tokens)} to {max(tokens)}, "
          f"{options.clients} other clients")  # fmt: skip
    print(f"{'':16s}{'median':>8s}{'quickest tenth':>16s}")
    tell("engine alone", engines)
    tell("client's own", own)
    for name, found in over.items():
        tell(f"+ {name}", found)


def tell(name: str, seconds: list[float]) -> None:
    tenth = sorted(seconds)[len(seconds) // 10] if seconds else float("nan")
    median = statistics.median(seconds) if seconds else float("nan")
    print(f"{name:16s}{1000 * median:5.1f} ms{1000 * tenth:13.1f} ms")


if __name__ == "__main__":
    main()
