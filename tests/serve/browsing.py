"""A real server with the shipped adapter and the example facts, and Debian's Chromium to look at its page."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn
import yaml

from pipeline.config import CONF, ROOT, section
from pipeline.serve.app import create_app
from pipeline.serve.service import Service
from pipeline.serve.settings import Serve
from pipeline.serve.start import EXAMPLES, PRETRAINED

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TOKEN = "the-token-of-the-tests-of-the-page"
CONCLUDED = re.compile("Read from|No fact")
FIGURES = ROOT / "docs" / "serving"
SHOTS = "LIVING_MEMORY_SHOTS"
"""Set to anything, this variable lets the tests write the pictures of the documentation anew."""
LARGEST = 150_000
"""Bytes of a picture at most."""


@dataclass
class Site:
    """A server that runs."""

    url: str
    service: Service

    def write(self, head: str, relation: str, tail: str, **more: Any) -> None:
        """Write a fact over HTTP, as another client would."""
        body = {"head": head, "relation": relation, "tail": tail, **more}
        headers = {"Authorization": f"Bearer {TOKEN}"}
        httpx.post(f"{self.url}facts", json=body, headers=headers).raise_for_status()

    def delete(self, head: str, relation: str) -> None:
        """Delete what a slot holds now."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        listed = httpx.get(f"{self.url}facts", params={"head": head, "relation": relation})
        for fact in listed.raise_for_status().json()["facts"]:
            httpx.delete(f"{self.url}facts/{fact['id']}", headers=headers).raise_for_status()


def settings(folder: Path) -> Serve:
    """Return the values of conf/serve, for a new memory of the example facts at a free port."""
    values = yaml.safe_load((CONF / "serve" / "default.yaml").read_text(encoding="utf-8"))
    values |= {"port": 0, "facts": EXAMPLES, "adapter": PRETRAINED, "sync": "none", "threads": 1}
    values |= {"memory": folder / "memory", "snapshots": folder / "snapshots"}
    made: Serve = section(Serve, values, "serve")
    return made


@contextmanager
def running(service: Service) -> Iterator[str]:
    """Serve inside this block; yield the address."""
    server = uvicorn.Server(
        uvicorn.Config(create_app(service), host="127.0.0.1", port=0, log_config=None, access_log=False)
    )
    thread = Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.05)
            assert thread.is_alive()
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join()


@dataclass
class Tab:
    """A page in the browser, and what went wrong in it."""

    page: "Page"
    problems: list[str] = field(default_factory=list)

    def heard(self, message: "ConsoleMessage") -> None:
        """Keep what the console says of errors."""
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def ask(self, question: str = "", as_of: str | None = None) -> None:
        """Ask by the form, and wait for the end of the answer; without a question, for the one under way."""
        if as_of is not None:
            self.page.get_by_label("As of").fill(as_of)
        if question:
            self.page.get_by_label("Your question").fill(question)
            self.page.get_by_role("button", name="Ask", exact=True).click()
        self.answered()

    def answered(self) -> None:
        """Wait for the end of an answer."""
        problem = self.page.locator("#problem:visible")
        self.page.locator("#note", has_text=CONCLUDED).or_(problem).wait_for()
        assert not problem.count(), problem.inner_text()

    def fill(self, label: str, text: str) -> None:
        """Fill in the field with a label."""
        self.page.locator("input").and_(self.page.get_by_label(label)).fill(text)

    def noticed(self, text: str) -> None:
        """Wait until the page tells of a change."""
        self.page.locator("#notice", has_text=text).wait_for()

    def trust(self) -> None:
        """Let the tab know the token already."""
        self.page.evaluate("token => sessionStorage.setItem('living-memory-token', token)", TOKEN)

    @property
    def answer(self) -> str:
        return self.page.locator("#text").inner_text()

    @property
    def read(self) -> list[str]:
        return self.page.locator("#read .fact > span:first-child").all_inner_texts()

    def shoot(self, name: str) -> None:
        """Take a picture for the documentation where the tests are told to."""
        if not os.environ.get(SHOTS):
            return
        FIGURES.mkdir(parents=True, exist_ok=True)
        self.page.mouse.move(0, 0)
        file = FIGURES / f"{name}.png"
        self.page.screenshot(path=file, full_page=True, animations="disabled", caret="hide")
        assert file.stat().st_size <= LARGEST


@contextmanager
def tab(browser: "Browser", url: str, **how: Any) -> Iterator[Tab]:
    """Open the page in a fresh profile; nothing may go wrong in it."""
    with browser.new_context(**({"viewport": {"width": 1200, "height": 800}} | how)) as context:
        opened = Tab(context.new_page())
        opened.page.on("console", opened.heard)
        opened.page.on("pageerror", lambda error: opened.problems.append(str(error)))
        opened.page.set_default_timeout(180_000)  # a busy machine is slow, not wrong
        opened.page.goto(url)
        yield opened
        assert not opened.problems, opened.problems
