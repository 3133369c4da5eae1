"""Starts the kit's app on the phone that adb reaches, and says what it says; exits as it does.

    python run.py                   check the network in the app and its stored example, and time it
    python run.py photo.jpg         classify an image as well

Needs Python 3.8 or later and adb; the app must be installed (gradle installRelease). Exits 1 if the network does not compute what it should, 2 if
something is refused or missing.
"""

import argparse
import re
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path

APP = "org.hwnas.kit"
FOLDER = "/sdcard/Android/data/" + APP + "/files"
COMMAND_S = 60
LINE = re.compile(r"^(?:\S+ +)?I/hwnas *\( *\d+\): (?P<text>.*)$")


class Refused(Exception):
    """One sentence; exit code 2."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="*", type=Path, help="image files; .npy holds pixels (h, w) or (h, w, c) as uint8")
    parser.add_argument("--serial", default="", help="of the device, as 'adb devices' shows it (default: the only one)")
    parser.add_argument("--top", type=int, default=5, help="classes to print per image")
    parser.add_argument("--runs", type=int, default=100, help="timed runs, 0 for none")
    parser.add_argument("--within-bound", action="store_true", help="exit 1 where the network takes longer there than the certified bound")
    parser.add_argument("--seconds", type=int, default=120, help="how long the app may take for each start")
    arguments = parser.parse_args()
    try:
        return run(arguments)
    except Refused as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2


def run(arguments):
    adb = Adb(arguments.serial)
    if not adb("shell", "pm", "path", APP).startswith("package:"):
        raise Refused("the app is not on the device; build and install it with: gradle installRelease")
    for path in arguments.images:
        if not path.is_file():
            raise Refused(f"there is no file {path}")
    timed = ["--ei", "runs", str(arguments.runs), "--ei", "top", str(arguments.top)] + (["--ez", "within_bound", "true"] if arguments.within_bound else [])
    code = started(adb, timed, arguments.seconds)  # this also makes the folder that images go to
    for path in arguments.images:
        if code:
            break
        there = "image" + "".join(c for c in path.suffix.lower() if c in ".abcdefghijklmnopqrstuvwxyz0123456789")[:10]
        adb("push", str(path), f"{FOLDER}/{there}")
        code = started(adb, ["--ei", "runs", "0", "--ei", "top", str(arguments.top), "--es", "image", there], arguments.seconds, {there: path.name})
        adb("shell", "rm", "-f", f"{FOLDER}/{there}")
    if code == 0:
        print("ok")
    return code


class Adb:
    """`adb` for one device: a call runs it and returns what it printed."""

    def __init__(self, serial):
        program = shutil.which("adb")
        if program is None:
            raise Refused("adb is not installed; install Android's platform-tools (package adb)")
        self.command = [program] + (["-s", serial] if serial else [])

    def __call__(self, *words):
        try:
            done = subprocess.run([*self.command, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_S)
        except subprocess.TimeoutExpired:
            raise Refused(f"'adb {words[0]}' did not end within {COMMAND_S} s; check the cable, and unlock the device") from None
        said = done.stdout.decode(errors="replace")
        if done.returncode != 0 and words[:2] != ("shell", "pm"):
            raise Refused(f"adb {words[0]}: {(done.stderr.decode(errors='replace') or said).strip()[-300:] or 'no reason given'}")
        return said


def started(adb, extras, seconds, names=()):
    """Exit code of one run of the app, whose lines are printed; those of an error go to stderr. names: what stands for a word at a line's begin."""
    name = secrets.token_hex(8)
    adb("shell", "am", "start", "-W", "-n", f"{APP}/.MainActivity", "--es", "run", name, *extras)
    give_up, shown = time.monotonic() + seconds, 0
    while time.monotonic() < give_up:
        log = adb("logcat", "-d", "-v", "brief", "-s", "hwnas:I")
        found = [line["text"][len(name) + 1 :] for line in map(LINE.match, log.splitlines()) if line and line["text"].startswith(name + " ")]
        for text in found[shown:]:
            if re.fullmatch(r"exit \d", text):
                return int(text[5:])
            if text != "ok":
                for there, here in dict(names).items():
                    text = here + text[len(there) :] if text.startswith(there + " ") else text
                is_error = text.startswith("error: ")
                print("".join(c if c.isprintable() else "?" for c in text), file=sys.stderr if is_error else sys.stdout, flush=True)
        shown = len(found)
        time.sleep(0.2)
    raise Refused(f"the app did not end within {seconds} s: unlock the device, and look at its screen")


if __name__ == "__main__":
    sys.exit(main())
