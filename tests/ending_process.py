"""A process that ends as it is told if it is the second one: `exit`, `well`, or the number of a signal."""

import os
import sys
import time

if __name__ == "__main__":
    if os.environ["RANK"] == "1" and sys.argv[1] == "exit":
        sys.exit(6)
    if os.environ["RANK"] == "1" and sys.argv[1].isdigit():
        os.kill(os.getpid(), int(sys.argv[1]))
    if sys.argv[1] != "well":
        time.sleep(30)
