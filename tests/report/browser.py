"""A browser that looks at reports, and lets nothing wrong pass."""

import contextlib
import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
# No sandbox: tests run as root in containers; the rest keeps it from calling home.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextlib.contextmanager
def started():
    """Yield a browser; skip the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser, path, *, width=1280, height=900, scheme="light", scripts=True):
    """Yield a page that shows a file; an error, or a request for anything else, fails the test."""
    wrong = []
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        java_script_enabled=scripts,
        accept_downloads=False,
    )
    page = context.new_page()
    page.set_default_timeout(5_000)
    address = path.as_uri()
    page.on("console", lambda said: said.type in ("error", "warning") and wrong.append(said.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: _foreign(asked.url, address) and wrong.append(asked.url))
    page.goto(address)
    yield page
    context.close()
    assert not wrong


def _foreign(url, address):
    return url.partition("#")[0] != address and not url.startswith("data:")
