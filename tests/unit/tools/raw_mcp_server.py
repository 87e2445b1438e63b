"""An MCP server over standard input that says what it is told to, right or wrong: `python raw_mcp_server.py JSON`.

The JSON object may hold `pages` (results of `tools/list`, one after the other, the last one for ever), `result` (of
every call; else a call answers its arguments), `error` (the JSON-RPC error of calls with an argument `fail`), and
`noise`: bytes that go before every answer, in hexadecimal digits. A cursor "new" is another one each time. A call with
an argument `hang` is the last thing that it reads.
"""

import json
import sys
import time

told = json.loads(sys.argv[1])
pages = told.get("pages") or [{"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}]
listed = 0


def answer(method, parameters):
    global listed
    if method == "initialize":
        info = {"name": "raw", "version": "1"}
        return {"protocolVersion": parameters["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": info}
    if method == "tools/list":
        listed += 1
        page = pages[min(listed, len(pages)) - 1]
        return {**page, "nextCursor": str(listed)} if page.get("nextCursor") == "new" else page
    if method == "tools/call":
        if "hang" in parameters["arguments"]:
            time.sleep(3600)
        if "fail" in parameters["arguments"]:
            return {"error": told["error"]}
        text = json.dumps(parameters.get("arguments"), ensure_ascii=False)
        return told.get("result", {"content": [{"type": "text", "text": text}]})
    return None


for line in sys.stdin:
    request = json.loads(line)
    if "id" not in request:
        continue
    result = answer(request["method"], request.get("params"))
    said = {"error": {"code": -32601, "message": "Method not found"}} if result is None else {"result": result}
    if isinstance(result, dict) and "error" in result:
        said = result
    sys.stdout.buffer.write(bytes.fromhex(told.get("noise", "")))
    sys.stdout.buffer.write(json.dumps({"jsonrpc": "2.0", "id": request["id"], **said}).encode() + b"\n")
    sys.stdout.buffer.flush()
