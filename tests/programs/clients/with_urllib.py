import sys
from urllib.request import urlopen

with urlopen(sys.argv[1], timeout=60) as answer:
    for line in answer:
        print(line.decode(), end="", flush=True)
