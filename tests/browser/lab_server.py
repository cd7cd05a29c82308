"""A JupyterLab of its own on loopback, and a Chromium that looks at it."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NO_CHROMIUM = "no Chromium found: `apt-get install chromium`, or name one in AVS_CHROMIUM"
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # every cell is in the page, wherever one has scrolled to
    "notebook-extension/tracker": {"windowingMode": "none"},
}


def find_chromium() -> str | None:
    """Chromium or Chrome: AVS_CHROMIUM, else what is on the PATH."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    return os.environ.get("AVS_CHROMIUM") or next((p for p in map(shutil.which, names) if p), None)


@contextlib.contextmanager
def lab(workspace: Path, private: Path) -> Iterator[tuple[str, str]]:
    """JupyterLab on the folder `workspace`, with all of its own files below `private`; yields its address and token.

    At the end the server is asked to stop, which stops its kernels too, and killed if it does not.
    """
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    env = dict(os.environ)
    for variable, name in folders.items():
        (private / name).mkdir(parents=True)
        env[variable] = str(private / name)
    for name, values in SETTINGS.items():
        path = private / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")
    token, log = secrets.token_hex(16), private / "lab.log"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={workspace}",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.extension_manager=readonly",
    ]
    with open(log, "wb") as stream:
        server = subprocess.Popen(command, cwd=workspace, env=env, stdout=stream, stderr=stream, start_new_session=True)
    address = ""
    try:
        address = _wait(server, private / "runtime", token, log)
        yield address, token
    finally:
        _stop(server, address, token)


def _wait(server: subprocess.Popen, runtime: Path, token: str, log: Path, seconds: float = 60) -> str:
    """The address the server really listens on, once it answers."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(OSError, ValueError, KeyError, StopIteration):
            port = json.loads(next(runtime.glob("jpserver-*.json")).read_text(encoding="utf-8"))["port"]
            address = f"http://127.0.0.1:{port}"
            _ask(f"{address}/api/status", token)
            return address
        time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text(encoding='utf-8', errors='replace')[-3000:]}")


def _ask(url: str, token: str, method: str = "GET") -> bytes:
    request = urllib.request.Request(url, method=method, headers={"Authorization": f"token {token}"})
    # no proxy for loopback, whatever the environment says
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as answer:
        return answer.read()


def _stop(server: subprocess.Popen, address: str, token: str) -> None:
    if address:
        with contextlib.suppress(OSError):
            _ask(f"{address}/api/shutdown", token, "POST")
    try:
        server.wait(15)
    except subprocess.TimeoutExpired:
        if hasattr(os, "killpg"):
            os.killpg(server.pid, signal.SIGKILL)
        else:
            server.kill()
        server.wait(10)


@contextlib.contextmanager
def page_of(address: str, width: int = 1400, height: int = 1000) -> Iterator:
    """A page of a headless Chromium that reaches `address` and nothing else."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(30_000)
            page.route(lambda url: url.startswith("http") and not url.startswith(address), lambda route: route.abort())
            yield page
        finally:
            browser.close()


def run_all(page, address: str, token: str, name: str) -> list[dict]:
    """Open a notebook, run all its cells, and give them with their outputs, as they would be saved."""
    page.goto(f"{address}/lab/tree/{name}?token={token}")
    page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.sessionContext", timeout=60_000)
    # without these waits the run is dropped
    page.evaluate("""async () => {
        const app = window.jupyterapp, panel = app.shell.currentWidget;
        await app.restored;
        await panel.revealed;
        await panel.sessionContext.ready;
        await panel.sessionContext.session.kernel.info;
        app.shell.collapseLeft();
        window.finished = app.commands.execute('notebook:run-all-cells').then(() => true);
    }""")
    page.wait_for_function("() => window.finished.then(() => true)", timeout=300_000)
    return page.evaluate("() => window.jupyterapp.shell.currentWidget.context.model.toJSON().cells")


def problems(cells: list[dict]) -> list[str]:
    """Cells that did not run, errors, and whatever was written to stderr."""
    found = []
    for number, cell in enumerate(cells):
        if cell["cell_type"] != "code" or not "".join(cell["source"]).strip():
            continue
        if cell["execution_count"] is None:
            found.append(f"cell {number} did not run")
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                found.append(f"cell {number}: {output['ename']}: {output['evalue']}")
            if output.get("name") == "stderr":
                found.append(f"cell {number} wrote to stderr: {''.join(output['text'])[:300]}")
    return found
