"""An ordinary program: METHOD URL [BODY] → status and body as JSON. It knows nothing of payments."""

import json
import sys

import httpx

method, url, *body = sys.argv[1:]
answer = httpx.request(method, url, content=body[0] if body else None, timeout=30)
print(json.dumps({"status": answer.status_code, "body": answer.text, "headers": dict(answer.headers)}))
