"""A synthesizer that writes down what it is told instead of saying it: a real process.

Usage: ``fake_synthesizer.py DIRECTORY MODE [--wav FILE] [ARGUMENT ...]``, text on standard input.
Modes: ``brief`` ends soon, ``hold`` when the gate is opened, ``fail`` with an error, ``hang``
never: it ignores SIGTERM and has a child in a session of its own that does, too.
"""

import fcntl
import json
import os
import signal
import sys
import time
import wave


def main(directory: str, mode: str, *arguments: str) -> int:
    """Do what the mode says, and return the exit code."""
    text = sys.stdin.read()

    def record(**what: object) -> None:
        line = json.dumps({"pid": os.getpid(), "text": text, "argv": arguments, **what}) + "\n"
        with open(f"{directory}/record", "a") as file:
            file.write(line)  # one write: lines of several processes do not mix

    if "--wav" in arguments:
        with wave.open(arguments[arguments.index("--wav") + 1], "wb") as sound:
            sound.setparams((1, 2, 16000, 0, "NONE", ""))
            sound.writeframes(b"\0\0" * 1600)
        record(what="written")
        return 0

    # Who speaks holds the mouth; the kernel opens it when its owner dies.
    mouth = open(f"{directory}/mouth", "w")  # noqa: SIM115 - held until the end
    try:
        fcntl.flock(mouth, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        record(what="overlap")
        return 4
    if mode == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = os.fork()
        if child == 0:
            os.setsid()
            mouth.close()
            while True:
                signal.pause()
        record(what="begin", child=child)
        while True:
            signal.pause()
    record(what="begin")
    if mode == "fail":
        sys.stderr.write("\x1b[31mno such voice\x1b[0m\n")
        return 3
    if mode == "hold":
        with open(f"{directory}/gate"):
            pass
    else:
        time.sleep(0.03)  # how long it takes to say anything
    record(what="end")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
