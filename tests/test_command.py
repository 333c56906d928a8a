"""Signals to the command, whatever it does."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

import gammajax_command as command

# stands for the command line, whose import takes seconds: says when it is busy, then is busy in its own way
STAND_IN = """
import sys, time, types, hashlib, tempfile, pathlib
import gammajax_command as command
command.GRACE = 0.5
checkpoint = pathlib.Path(sys.argv[1])

def busy():
    print("ready", flush=True)

def python():
    busy()
    while True:
        pass

def asleep():
    with tempfile.TemporaryDirectory(dir=checkpoint.parent, prefix=".hidden-"):
        busy()
        time.sleep(60)

def compiling():  # the interpreter does not get to its next instruction
    busy()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000_000)

def swallowing():
    busy()
    while True:
        try:
            time.sleep(60)
        except SystemExit:
            pass

def writing():
    with command.held():
        busy()
        time.sleep(1.0)
        checkpoint.with_name("written").write_text("whole")
    time.sleep(60)

def app():
    command.resumes_from(checkpoint)
    command.step(sys.argv[2], cleans=sys.argv[2] in ("asleep", "swallowing"))
    globals()[sys.argv[2]]()

def importing(name):
    busy()
    time.sleep(60)

package = types.ModuleType("gammajax")
if sys.argv[2] == "importing":
    package.__path__, package.__getattr__ = [], importing
    class Finder:
        def find_spec(self, name, *_):
            if name == "gammajax.cli":
                importing(name)
    sys.meta_path.insert(0, Finder())
else:
    package.cli = types.ModuleType("gammajax.cli")
    package.cli.app = app
    sys.modules["gammajax.cli"] = package.cli
sys.modules["gammajax"] = package
command.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("busy", ["importing", "python", "asleep", "compiling", "swallowing", "writing"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
@pytest.mark.parametrize("begun", [False, True])
def test_a_signal_ends_it_at_any_moment(busy, number, status, begun, tmp_path):
    checkpoint = tmp_path / "results" / ".run.checkpoint"
    checkpoint.parent.mkdir()
    if begun:
        checkpoint.write_bytes(b"state")
    (tmp_path / "stand_in.py").write_text(textwrap.dedent(STAND_IN))
    process = subprocess.Popen(
        [sys.executable, tmp_path / "stand_in.py", checkpoint, busy],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.path.dirname(command.__file__)},
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    begin = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == status and time.monotonic() - begin < 10.0
    lines = said.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"stopped by {number.name} in step "), said
    if begun and busy != "importing":
        assert lines[0].endswith(f"pass --resume to go on from {checkpoint}")
    else:
        assert lines[0].endswith("there is nothing to go on from yet: run the same command again")
    left = {file.name for file in checkpoint.parent.iterdir()} - {checkpoint.name}
    assert left == ({"written"} if busy == "writing" else set())  # and no hidden folder


@pytest.mark.parametrize("given", [None, "glibc.malloc.check=1"])
@pytest.mark.parametrize("pages", ["always [madvise] never", "always madvise [never]", "[always] madvise never", None])
def test_it_asks_for_large_pages_once_where_linux_waits_for_that(given, pages, tmp_path):
    if pages is not None:
        (tmp_path / "enabled").write_text(pages)
    # starts again as it was started, with the same arguments
    script = f"""
import os, pathlib, sys
import gammajax_command as command
command.PAGES = pathlib.Path({str(tmp_path / "enabled")!r})
class cli:
    app = lambda: print(sys.argv[1:], os.environ.get(command.TUNABLES), sys.flags.optimize)
sys.modules["gammajax"] = sys.modules["gammajax.cli"] = cli
print("started", flush=True)
command.main()
"""
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(command.__file__)}
    environment.pop(command.TUNABLES, None)
    if given is not None:
        environment[command.TUNABLES] = given
    run = [sys.executable, "-O", "-c", script, "run", "a b"]
    said = subprocess.run(run, capture_output=True, text=True, check=True, env=environment).stdout.splitlines()
    libc = (os.confstr("CS_GNU_LIBC_VERSION") or "").split() if hasattr(os, "confstr") else []
    modern = sys.platform == "linux" and len(libc) == 2 and tuple(map(int, libc[1].split(".")[:2])) >= (2, 35)
    asks = modern and given is None and pages is not None and "[madvise]" in pages
    assert said == ["started"] * (1 + asks) + [f"['run', 'a b'] {command.LARGE_PAGES if asks else given} 1"]


def test_nothing_listens_unless_the_command_does():
    before = signal.getsignal(signal.SIGTERM)
    command.listen()
    with command.held():
        pass
    assert signal.getsignal(signal.SIGTERM) is before
