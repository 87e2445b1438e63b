"""A real endpoint of a tiny model on loopback, for tests: what it writes is nonsense, or what it was taught."""

from contextlib import contextmanager

from appo.engines.transformers_engine import TransformersEngine
from appo.serve.app import make_app
from appo.serve.bounds import Bounds
from appo.serve.chat import Chat
from appo.serve.dialects import dialects
from appo.serve.endpoint import Endpoint, ServedModel
from appo.serve.engine_thread import EngineThread
from appo.serve.keys import Keys
from appo.serve.server import Server


def make_endpoint(model, tokenizer, *, protocol="chat_template", bounds=None, anyone=True, engine=None, **options):
    """An endpoint at temperature 1; `options` are those of `dialects`."""
    eos = frozenset({tokenizer.eos_token_id})
    model.eval()
    engine = engine or TransformersEngine(
        model, pad_token_id=tokenizer.pad_token_id, eos_token_ids=eos, tokenizer=tokenizer
    )
    context = model.config.max_position_embeddings
    served = ServedModel("policy", tokenizer, model.config.vocab_size, context, max_completion_length=64)
    chat = Chat(dialects(tokenizer, eos, protocol, **options))
    return Endpoint(served, EngineThread(engine), chat, Keys(bounds or Bounds(), anyone))


@contextmanager
def serving(endpoint, **options):
    """The endpoint behind a real server, whose address is given."""
    server = Server().start(make_app(endpoint, **options))
    try:
        yield server.url
    finally:
        server.close()
        endpoint.thread.close()
