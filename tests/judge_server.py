"""A real server on this machine that speaks OpenAI's chat completions, for tests of judges."""

import json
from http.server import BaseHTTPRequestHandler

from local_server import LocalServer


class JudgeServer(LocalServer):
    """Answers `POST {base}/chat/completions`.

    Args:
        base: Path before `/chat/completions`; others get 404.

    `reply(prompt)` gives what the model says, but where the check asks about a wrong answer and the model is `honest`;
    `failures` are statuses, bodies, or (status, headers) that are sent first, one per request.
    """

    def __init__(self, base="/v1"):
        self.requests, self.failures, self.before = [], [], lambda: None
        self.reply = lambda prompt: "The same.\nVerdict: correct"
        self.honest = True
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path != f"{base}/chat/completions":
                    return self.send(404, b"")
                headers = {name.title(): value for name, value in self.headers.items()}
                server.requests.append({"headers": headers, "body": body})
                server.before()
                failure = server.failures.pop(0) if server.failures else None
                if isinstance(failure, int):
                    return self.send(failure, b"{}")
                if isinstance(failure, tuple):
                    return self.send(failure[0], b"{}", failure[1])
                return self.send(200, failure if failure is not None else json.dumps(server.completion(body)).encode())

            def send(self, status, content, headers=None):
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                try:
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    pass  # a client that did not wait

            def log_message(self, *_):
                pass

        super().__init__(Handler)

    def completion(self, body):
        prompt = body["messages"][-1]["content"]
        wrong = self.honest and "What is 1 + 1?" in prompt and "<<<\n3\n>>>" in prompt
        message = {"role": "assistant", "content": "Verdict: incorrect" if wrong else self.reply(prompt)}
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1700000000,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
