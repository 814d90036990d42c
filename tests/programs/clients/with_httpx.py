import sys

import httpx

with httpx.stream("GET", sys.argv[1], timeout=60) as answer:
    answer.raise_for_status()
    for text in answer.iter_text():
        print(text, end="", flush=True)
