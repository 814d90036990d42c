import sys

import requests

with requests.get(sys.argv[1], stream=True, timeout=60) as answer:
    answer.raise_for_status()
    for chunk in answer.iter_content(None):
        print(chunk.decode(), end="", flush=True)
